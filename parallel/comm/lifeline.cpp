// lifeline.cpp: one thread per process polls the sockets (parallel/comm/lifeline.h). Rank 0 hears of
// everything and decides: it sends the same alarm to all. A frame is its length, its kind and strings.
#include "parallel/comm/lifeline.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <map>
#include <optional>
#include <thread>

namespace rookery {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

enum class Frame : uint8_t {
  kHello,    // to rank 0: token and member
  kWelcome,  // from rank 0: payload, then the host of each rank
  kBeat,     // both ways: where the sender is
  kAbort,    // to rank 0: code and reason
  kAlarm,    // from rank 0: code, id and text; the end
  kAsk,      // to rank 0: where is everybody?
  kTell,     // from rank 0: that
  kBye,      // to rank 0: at the end; from rank 0: all are
};

constexpr size_t kMostFrameBytes = 1 << 20;
constexpr std::string_view kMagic = "rookery 1";

std::string encode(Frame kind, const std::vector<std::string>& fields) {
  std::string body(1, static_cast<char>(kind));
  auto put = [](std::string& to, uint32_t n) { to.append(reinterpret_cast<const char*>(&n), sizeof n); };
  for (const std::string& f : fields) {
    put(body, static_cast<uint32_t>(f.size()));
    body += f;
  }
  std::string frame;
  put(frame, static_cast<uint32_t>(body.size()));
  return frame + body;
}

int to_int(const std::string& text) { return static_cast<int>(std::strtol(text.c_str(), nullptr, 10)); }

class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {
    if (fd_ < 0) return;
    ::fcntl(fd_, F_SETFL, ::fcntl(fd_, F_GETFL) | O_NONBLOCK);
    const int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const { return fd_; }

  // By any thread. Frames are short: a second without room for one is as good as a broken connection.
  void send(Frame kind, const std::vector<std::string>& fields) {
    const std::string frame = encode(kind, fields);
    std::lock_guard lock(sending_);
    for (size_t at = 0; at < frame.size();) {
      const ssize_t n = ::send(fd_, frame.data() + at, frame.size() - at, MSG_NOSIGNAL);
      if (n > 0) {
        at += static_cast<size_t>(n);
        continue;
      }
      pollfd room{fd_, POLLOUT, 0};
      if ((errno != EAGAIN && errno != EINTR) || ::poll(&room, 1, 1000) == 0) return;
    }
  }

  // What has come; false at the end of the connection, or where it is not ours.
  template <class Handle>
  bool receive(Handle&& handle) {
    char block[4096];
    bool open = true;
    for (;;) {
      const ssize_t n = ::recv(fd_, block, sizeof block, 0);
      if (n > 0) {
        input_.append(block, static_cast<size_t>(n));
        continue;
      }
      open = n < 0 && (errno == EAGAIN || errno == EINTR);
      break;
    }
    auto number = [&](size_t at) {
      uint32_t value = 0;
      std::memcpy(&value, input_.data() + at, sizeof value);
      return size_t{value};
    };
    size_t at = 0;
    while (input_.size() - at >= 4) {
      const size_t size = number(at), begin = at + 4;
      if (size < 1 || size > kMostFrameBytes) return false;
      if (input_.size() - begin < size) break;
      std::vector<std::string> fields;
      size_t p = begin + 1;
      const size_t end = begin + size;
      while (end - p >= 4) {
        const size_t length = number(p);
        if (length > end - p - 4) return false;
        fields.push_back(input_.substr(p + 4, length));
        p += 4 + length;
      }
      const auto kind = static_cast<Frame>(input_[begin]);
      at = end;
      handle(kind, fields);
    }
    input_.erase(0, at);
    return open;
  }

 private:
  int fd_;
  std::mutex sending_;
  std::string input_;
};

std::vector<std::string> encode(const std::string& token, const Member& m) {
  return {std::string(kMagic), token, str(m.rank), str(m.size),   m.host,
          str(m.pid),          m.gpu, m.version,   m.fingerprint, m.failure};
}

std::optional<Member> decode(const std::string& token, const std::vector<std::string>& f) {
  if (f.size() != 10 || f[0] != kMagic || f[1] != token) return std::nullopt;
  return Member{to_int(f[2]), to_int(f[3]), f[4], std::strtol(f[5].c_str(), nullptr, 10),
                f[6],         f[7],         f[8], f[9]};
}

std::string seconds(Clock::duration d) {
  const auto ms = std::chrono::duration_cast<milliseconds>(d).count();
  return ms < 10'000 ? str(ms, " ms") : str(ms / 1000, " s");
}

// Connects to the first address that answers; errno's text in `why` where none does.
std::unique_ptr<Socket> connect_to(const std::vector<std::string>& addresses, int port, std::string& why) {
  for (const std::string& address : addresses) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (const int error = ::getaddrinfo(address.c_str(), str(port).c_str(), &hints, &found); error != 0) {
      why = str(address, ":", port, ": ", ::gai_strerror(error));
      continue;
    }
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
    for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
      const int fd = ::socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      if (fd < 0) continue;
      auto socket = std::make_unique<Socket>(fd);
      int error = ::connect(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
      if (error == EINPROGRESS) {
        pollfd ready{fd, POLLOUT, 0};
        socklen_t size = sizeof error;
        if (::poll(&ready, 1, 2000) == 0)
          error = ETIMEDOUT;
        else
          ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
      }
      if (error == 0) return socket;
      why = str(address, ":", port, ": ", std::strerror(error), " (errno ", error, ")");
    }
  }
  return nullptr;
}

// What the others get to know of a member that gave up.
Error error_of(const Member& m, ExitCode code, const std::string& why) {
  if (code == ExitCode::kHang) return Error(code, std::string(kTimeoutId), why);
  return Error(ExitCode::kPeerFailed, std::string(kPeerFailedId), str(name_of(m), " failed: ", why));
}

[[noreturn]] void throw_frame(const std::vector<std::string>& f) {
  RK_CHECK(f.size() == 3, "[lifeline] an alarm of ", f.size(), " fields");
  throw Error(static_cast<ExitCode>(to_int(f[0])), f[1], f[2]);
}

}  // namespace

std::string name_of(const Member& m) {
  return str("rank ", m.rank, " on ", m.host, " (process ", m.pid, ")");
}

void check_members(const std::vector<Member>& members) {
  for (const Member& m : members)
    if (!m.failure.empty())
      fail(ExitCode::kPeerFailed, kPeerFailedId, name_of(m), " cannot start: ", m.failure);
  const Member& first = members.front();
  for (size_t i = 0; i < members.size(); ++i) {
    const Member& m = members[i];
    if (m.size != first.size)
      fail(ExitCode::kUnavailable, "COMM-05", name_of(first), " was told of ", first.size, " ranks, ",
           name_of(m), " of ", m.size,
           "; start all ranks with one launcher, or give them the same WORLD_SIZE");
    if (m.rank < 0 || m.rank >= m.size)
      fail(ExitCode::kUnavailable, "COMM-05", name_of(m), ": found rank ", m.rank, ", expected 0 to ",
           m.size - 1);
    if (m.version != first.version)
      fail(ExitCode::kUnavailable, "COMM-06", name_of(first), " runs ", first.version, ", ", name_of(m),
           " runs ", m.version, "; all ranks must run the same program and libraries");
    if (m.fingerprint != first.fingerprint)
      fail(ExitCode::kConfig, "COMM-06", name_of(first), " and ", name_of(m),
           " have different configurations (", first.fingerprint, " and ", m.fingerprint,
           "); give all ranks the same files and overrides");
    for (size_t k = 0; k < i; ++k) {
      const Member& other = members[k];
      if (other.rank == m.rank)
        fail(ExitCode::kUnavailable, "COMM-05", "two processes are rank ", m.rank, ": found ", name_of(other),
             " and ", name_of(m), ", expected one; give each its own RANK");
      if (!m.gpu.empty() && m.gpu == other.gpu)
        fail(ExitCode::kUnavailable, "COMM-08", name_of(other), " and ", name_of(m), " use one GPU, ", m.gpu,
             "; start as many ranks on a machine as it has GPUs, and let the launcher tell the local rank");
    }
  }
}

Listener::Listener(bool this_machine_alone, int port, milliseconds patience)
    : this_machine_alone_(this_machine_alone) {
  const auto until = Clock::now() + patience;
  for (;;) {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int on = 1;
    ::setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(static_cast<uint16_t>(port));
    at.sin_addr.s_addr = htonl(this_machine_alone ? INADDR_LOOPBACK : INADDR_ANY);
    if (fd_ >= 0 && ::bind(fd_, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0 &&
        ::listen(fd_, SOMAXCONN) == 0)
      break;
    const int error = errno;
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
    if (error != EADDRINUSE || Clock::now() > until)
      fail(ExitCode::kUnavailable, "COMM-07", "rank 0 cannot listen at ",
           this_machine_alone ? "127.0.0.1" : "*", ":", port, ": ", std::strerror(error), " (errno ", error,
           "); expected a free port: set MASTER_PORT");
    std::this_thread::sleep_for(milliseconds(100));
  }
  sockaddr_in bound{};
  socklen_t size = sizeof bound;
  ::getsockname(fd_, reinterpret_cast<sockaddr*>(&bound), &size);
  port_ = ntohs(bound.sin_port);
}

Listener::~Listener() {
  if (fd_ >= 0) ::close(fd_);
}

std::vector<std::string> Listener::addresses() const {
  if (this_machine_alone_) return {"127.0.0.1"};
  std::vector<std::string> list;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return list;
  for (const ifaddrs* i = all; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET) continue;
    if (!(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK)) continue;
    char text[INET_ADDRSTRLEN];
    if (::inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in*>(i->ifa_addr)->sin_addr, text, sizeof text))
      list.emplace_back(text);
  }
  ::freeifaddrs(all);
  return list;
}

// What rank 0 knows of a rank, and every other rank of rank 0. Written by the lifeline's thread under the
// lock.
struct Peer {
  Member member;
  std::shared_ptr<Socket> socket;  // null once the connection has ended
  Clock::time_point heard = Clock::now();
  std::string where = "start; no collective yet";
  bool bye = false, excused = false;  // it told why it leaves
};

struct Lifeline::State {
  Options options;
  std::unique_ptr<Listener> listener;
  std::vector<std::unique_ptr<Socket>> late;  // who came when all were there
  std::vector<std::string> hosts;
  std::string payload;
  std::vector<std::string> early_alarm;  // that came before the thread ran
  std::map<int, Peer> peers;             // by rank; of rank 0 all others, of these rank 0 alone
  std::shared_ptr<Watch> watch;
  int wake_fd = -1;
  std::thread thread;
  mutable std::mutex mutex;
  std::condition_variable changed;
  bool stopping = false;                                       // the destructor runs
  bool finishing = false;                                      // this rank called finish()
  bool finished = false;                                       // all did
  bool announced = false;                                      // rank 0: all have been sent the alarm
  std::optional<std::string> answer;                           // to kAsk
  std::optional<std::pair<ExitCode, std::string>> own_reason;  // rank 0: why it gave up itself

  bool leads() const { return options.self.rank == 0; }
  void wake() const {
    const uint64_t one = 1;
    if (::write(wake_fd, &one, sizeof one) < 0) return;  // it is awake then
  }

  Error missing_from(const std::vector<Member>& members) const {
    std::vector<bool> here(static_cast<size_t>(options.self.size));
    std::string missing, present;
    for (const Member& m : members) {
      here[static_cast<size_t>(m.rank)] = true;
      present += str(present.empty() ? "" : ", ", name_of(m));
    }
    for (int r = 0; r < options.self.size; ++r)
      if (!here[static_cast<size_t>(r)]) missing += str(missing.empty() ? "" : ", ", r);
    return Error(ExitCode::kHang, "COMM-04",
                 str("rank ", missing, " of ", options.self.size, " did not come within ",
                     seconds(options.start_limit), "; here are ", present,
                     "; look for its error in the launcher's output, and start as many ranks as it says"));
  }

  void gather() {
    auto until = Clock::now() + options.start_limit;
    std::vector<Member> members{options.self};
    std::vector<std::unique_ptr<Socket>> sockets(1), strangers;  // none to itself
    // What is wrong is told to those who are still on their way, too.
    std::optional<Error> problem;
    auto check = [&] {
      if (problem) return;
      try {
        check_members(members);
      } catch (const Error& e) {
        problem = e;
        until = std::min(until, Clock::now() + std::chrono::seconds(2));
      }
    };
    check();
    while (static_cast<int>(members.size()) < options.self.size && Clock::now() < until) {
      std::vector<pollfd> polled{{listener->fd(), POLLIN, 0}};
      for (const auto& stranger : strangers) polled.push_back({stranger->fd(), POLLIN, 0});
      const auto left = std::chrono::duration_cast<milliseconds>(until - Clock::now()).count();
      ::poll(polled.data(), polled.size(), static_cast<int>(std::clamp<int64_t>(left + 1, 0, 1000)));
      if (polled[0].revents & POLLIN)
        if (const int fd = ::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC); fd >= 0)
          strangers.push_back(std::make_unique<Socket>(fd));
      for (auto& stranger : strangers) {
        std::optional<Member> member;
        const bool open = stranger->receive([&](Frame kind, const std::vector<std::string>& f) {
          if (kind == Frame::kHello && !member) member = decode(options.token, f);
        });
        if (member) {
          members.push_back(*member);
          sockets.push_back(std::move(stranger));
          check();
        } else if (!open) {
          stranger.reset();
        }
      }
      std::erase(strangers, nullptr);
    }
    if (!problem && static_cast<int>(members.size()) < options.self.size) problem = missing_from(members);
    if (problem) {
      for (const auto& socket : sockets)
        if (socket)
          socket->send(Frame::kAlarm,
                       {str(static_cast<int>(problem->code())), problem->id(), problem->what()});
      throw *problem;
    }
    hosts.resize(members.size());
    for (const Member& m : members) hosts[static_cast<size_t>(m.rank)] = m.host;
    payload = options.payload;
    std::vector<std::string> welcome{payload};
    welcome.insert(welcome.end(), hosts.begin(), hosts.end());
    for (size_t i = 1; i < members.size(); ++i) {
      sockets[i]->send(Frame::kWelcome, welcome);
      Peer& p = peers[members[i].rank];
      p.member = members[i];
      p.socket = std::move(sockets[i]);
    }
  }

  void join() {
    const auto until = Clock::now() + options.start_limit;
    std::string why;
    std::unique_ptr<Socket> socket;
    milliseconds pause(20);
    while (!(socket = connect_to(options.addresses, options.port, why))) {
      if (Clock::now() > until)
        fail(ExitCode::kUnavailable, "COMM-07", "rank ", options.self.rank, " on ", options.self.host,
             " cannot reach rank 0 within ", seconds(options.start_limit), ": ", why,
             "; see that rank 0 was started, that the name is right and that no firewall is between");
      std::this_thread::sleep_for(pause);
      pause = std::min(2 * pause, milliseconds(1000));
    }
    socket->send(Frame::kHello, encode(options.token, options.self));
    // Rank 0 gives up by itself, with the names of those who are missing.
    const auto patience = until + std::max<Clock::duration>(options.start_limit, std::chrono::seconds(5));
    while (hosts.empty()) {
      pollfd ready{socket->fd(), POLLIN, 0};
      ::poll(&ready, 1, 100);
      const bool open = socket->receive([&](Frame kind, const std::vector<std::string>& f) {
        if (kind == Frame::kAlarm && !hosts.empty()) early_alarm = f;  // all were there, and one left at once
        if (kind == Frame::kAlarm && hosts.empty()) throw_frame(f);
        if (kind != Frame::kWelcome || f.empty()) return;
        payload = f[0];
        hosts.assign(f.begin() + 1, f.end());
      });
      if (hosts.empty() && (!open || Clock::now() > patience))
        fail(ExitCode::kPeerFailed, kPeerFailedId, "rank 0 at ", options.addresses.front(), ":", options.port,
             open ? " does not answer" : " closed the connection",
             " before all ranks were there; look for its error in the launcher's output");
    }
    RK_CHECK(static_cast<int>(hosts.size()) == options.self.size, "[lifeline] hosts of ", hosts.size(),
             " ranks");
    Peer& p = peers[0];
    p.member.rank = 0;
    p.member.host = hosts[0];
    p.socket = std::move(socket);
  }

  milliseconds interval() const {
    return std::clamp(watch->options().timeout / 10, milliseconds(20), milliseconds(5000));
  }

  void loop() {
    auto next_beat = Clock::now();
    std::optional<Clock::time_point> alarmed;
    for (;;) {
      std::vector<pollfd> polled{{wake_fd, POLLIN, 0}};
      std::vector<Peer*> who;
      for (auto& [rank, p] : peers)
        if (p.socket) {
          polled.push_back({p.socket->fd(), POLLIN, 0});
          who.push_back(&p);
        }
      if (listener) polled.push_back({listener->fd(), POLLIN, 0});
      for (const auto& l : late) polled.push_back({l->fd(), POLLIN, 0});
      const auto sleep = std::clamp(std::chrono::duration_cast<milliseconds>(next_beat - Clock::now()),
                                    milliseconds(0), interval());
      ::poll(polled.data(), polled.size(), static_cast<int>(sleep.count()) + 1);
      uint64_t drained = 0;
      if ((polled[0].revents & POLLIN) && ::read(wake_fd, &drained, sizeof drained) < 0) drained = 0;
      for (size_t i = 0; i < who.size(); ++i)
        if (polled[i + 1].revents) listen_to(*who[i]);
      if (listener) refuse_late();
      {
        std::lock_guard lock(mutex);
        if (stopping) break;
      }
      // After what had come was read: this process may itself have been stopped for a while.
      const auto now = Clock::now();
      if (now >= next_beat) {
        for (auto& [rank, p] : peers)
          if (p.socket) p.socket->send(Frame::kBeat, {watch->whereabouts()});
        next_beat = now + interval();
      }
      for (auto& [rank, p] : peers)
        if (p.socket && !p.bye && now - p.heard > watch->options().timeout)
          raise(ExitCode::kHang, kTimeoutId,
                str(watch->name(rank), " has given no sign of life for ", seconds(now - p.heard),
                    "; last heard of in: ", p.where, describe_others(rank)));
      if (watch->raised()) {
        announce();
        if (!alarmed) alarmed = now;
        if (now - *alarmed > options.leave_limit) leave_by_force();
      }
    }
    announce();
  }

  void refuse_late() {
    if (const int fd = ::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC); fd >= 0)
      late.push_back(std::make_unique<Socket>(fd));
    for (auto& l : late) {
      const bool open = l->receive([&](Frame kind, const std::vector<std::string>& f) {
        const auto member = kind == Frame::kHello ? decode(options.token, f) : std::nullopt;
        if (!member) return;
        l->send(Frame::kAlarm, {str(static_cast<int>(ExitCode::kUnavailable)), "COMM-05",
                                str(name_of(*member), ": all ", options.self.size,
                                    " ranks are there already; give each process a RANK of its own")});
      });
      if (!open) l.reset();
    }
    std::erase(late, nullptr);
  }

  void listen_to(Peer& p) {
    const bool open = p.socket->receive([&](Frame kind, const std::vector<std::string>& f) {
      p.heard = Clock::now();  // read by this thread alone
      switch (kind) {
        case Frame::kBeat:
          if (f.size() == 1) {
            std::lock_guard lock(mutex);
            p.where = f[0];
          }
          return;
        case Frame::kAbort: {
          if (f.size() != 2) return;
          p.excused = true;  // read by this thread alone
          const Error e = error_of(p.member, static_cast<ExitCode>(to_int(f[0])), f[1]);
          return raise(e.code(), e.id(), e.what());
        }
        case Frame::kAlarm:
          if (f.size() == 3) watch->raise(static_cast<ExitCode>(to_int(f[0])), f[1], f[2]);
          return;
        case Frame::kAsk:
          return p.socket->send(Frame::kTell, {describe_others(-1)});
        case Frame::kTell: {
          std::lock_guard lock(mutex);
          if (!f.empty()) answer = f[0];
          return changed.notify_all();
        }
        case Frame::kBye: {
          std::lock_guard lock(mutex);
          p.bye = true;
          return see_end();
        }
        default:
          return;
      }
    });
    if (open) return;
    bool expected = false;
    {
      std::lock_guard lock(mutex);
      p.socket.reset();
      expected = p.bye || p.excused || finished || stopping;
    }
    if (!expected)
      raise(ExitCode::kPeerFailed, kPeerFailedId,
            str(leads() ? name_of(p.member) : watch->name(p.member.rank), " is gone; it was in: ", p.where));
  }

  void raise(ExitCode code, std::string_view id, const std::string& what) {
    watch->raise(code, id, what);
    announce();
  }
  // Rank 0 tells all the same.
  void announce() {
    if (!leads() || announced || !watch->raised()) return;
    announced = true;
    std::optional<std::pair<ExitCode, std::string>> own;
    {
      std::lock_guard lock(mutex);
      own = own_reason;
    }
    const Error e = own ? error_of(options.self, own->first, own->second) : watch->alarm();
    for (auto& [rank, p] : peers)
      if (p.socket) p.socket->send(Frame::kAlarm, {str(static_cast<int>(e.code())), e.id(), e.what()});
  }
  // By the thread that gives up.
  void tell_abort(ExitCode code, const std::string& why) {
    if (!leads()) return send_to_leader(Frame::kAbort, {str(static_cast<int>(code)), why});
    std::lock_guard lock(mutex);
    own_reason = {code, why};
    wake();
  }

  void send_to_leader(Frame kind, const std::vector<std::string>& fields) {
    std::shared_ptr<Socket> socket;
    {
      std::lock_guard lock(mutex);
      socket = peers.at(0).socket;
    }
    if (socket) socket->send(kind, fields);
  }

  // Under the lock.
  void see_end() {
    if (finished) return;
    if (leads()) {
      if (!finishing) return;
      for (auto& [rank, p] : peers)
        if (!p.bye) return;
      for (auto& [rank, p] : peers)
        if (p.socket) p.socket->send(Frame::kBye, {});
    }
    finished = true;
    changed.notify_all();
  }

  // One line for each rank but one.
  std::string describe_others(int but) const {
    constexpr size_t kMostLines = 64;
    std::string text;
    std::lock_guard lock(mutex);
    if (but != options.self.rank)
      text += str("\n  ", watch->name(options.self.rank), ": ", watch->whereabouts());
    size_t lines = 1;
    for (const auto& [rank, p] : peers)
      if (rank != but && lines++ < kMostLines) text += str("\n  ", watch->name(rank), ": ", p.where);
    return text;
  }

  // For a rank that gives up waiting; asks rank 0.
  std::string describe() {
    if (leads()) return describe_others(-1);
    {
      std::lock_guard lock(mutex);
      answer.reset();
    }
    send_to_leader(Frame::kAsk, {});
    std::unique_lock lock(mutex);
    changed.wait_for(lock, std::chrono::seconds(1), [&] { return answer.has_value(); });
    return answer.value_or("");
  }

  // The main thread does not come back from what it does.
  [[noreturn]] void leave_by_force() const {
    const Error e = watch->alarm();
    ::dprintf(STDERR_FILENO, "error[%s]: %s\n(this process did not end by itself within %lld s of that)\n",
              e.id().c_str(), e.what(), static_cast<long long>(options.leave_limit.count() / 1000));
    ::_exit(static_cast<int>(e.code()));
  }
};

Lifeline::Lifeline(Options options, std::unique_ptr<Listener> listener) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.options = std::move(options);
  s.listener = std::move(listener);
  RK_CHECK(s.leads() == (s.listener != nullptr), "[Lifeline] rank 0 listens");
  if (s.leads())
    s.gather();
  else
    s.join();
}

const std::vector<std::string>& Lifeline::hosts() const { return state_->hosts; }
const std::string& Lifeline::payload() const { return state_->payload; }

void Lifeline::guard(std::shared_ptr<Watch> watch) {
  State& s = *state_;
  s.watch = std::move(watch);
  s.wake_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  const auto now = Clock::now();
  for (auto& [rank, p] : s.peers) p.heard = now;
  s.watch->on_abort([&s](ExitCode code, const std::string& why) { s.tell_abort(code, why); });
  s.watch->on_timeout([&s] { return s.describe(); });
  // A stopped rank is found out this much after the waits of others began to count.
  s.watch->set_grace(2 * s.interval());
  if (s.early_alarm.size() == 3)
    s.watch->raise(static_cast<ExitCode>(to_int(s.early_alarm[0])), s.early_alarm[1], s.early_alarm[2]);
  s.thread = std::thread([&s] { s.loop(); });
}

void Lifeline::finish() {
  State& s = *state_;
  s.watch->check();
  if (!s.leads()) s.send_to_leader(Frame::kBye, {});
  {
    std::lock_guard lock(s.mutex);
    s.finishing = true;
    if (s.leads()) s.see_end();
  }
  const auto until = Clock::now() + s.watch->options().timeout;
  std::unique_lock lock(s.mutex);
  while (!s.finished) {
    s.changed.wait_for(lock, milliseconds(20));
    s.watch->check();
    if (!s.finished && Clock::now() > until) {
      lock.unlock();
      const std::string why =
          str(s.watch->name(s.options.self.rank), " waits at the end for the others; not all came within ",
              s.watch->options().timeout.count(), " ms", s.describe());
      s.watch->abort(ExitCode::kHang, why);
      fail(ExitCode::kHang, kTimeoutId, why);
    }
  }
}

Lifeline::~Lifeline() {
  State& s = *state_;
  if (!s.thread.joinable()) return;
  bool finished = false;
  {
    std::lock_guard lock(s.mutex);
    finished = s.finished;
  }
  if (!finished) s.watch->abort(ExitCode::kPeerFailed, "it left before the others");
  s.watch->on_abort({});
  s.watch->on_timeout({});
  {
    std::lock_guard lock(s.mutex);
    s.stopping = true;
  }
  s.wake();
  s.thread.join();
  ::close(s.wake_fd);
}

}  // namespace rookery
