// world.cpp: from the launcher's variables to a world of ranks (parallel/comm/world.h).
#include "parallel/comm/world.h"

#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <random>

#include "kernels/base/fault.h"
#include "parallel/comm/text.h"

namespace rookery {
namespace {

using std::chrono::milliseconds;

std::string host_name() {
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  return *name ? name : "localhost";
}

milliseconds seconds_of(const char* variable, milliseconds otherwise) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return otherwise;
  const std::string_view value(text);
  double seconds = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), seconds);
  constexpr double kMost = 7 * 24 * 3600.0;
  if (error != std::errc() || end != value.data() + value.size() || !(seconds >= 0.01 && seconds <= kMost))
    fail(ExitCode::kUsage, "COMM-10", variable, ": found '", value, "', expected seconds from 0.01 to ",
         kMost);
  return milliseconds(static_cast<int64_t>(1000 * seconds));
}

std::string random_token() {
  std::random_device random;
  return str(random(), ".", random(), ".", random());
}

bool means_this_machine(const std::string& address) {
  return address == "localhost" || address.starts_with("127.");
}

}  // namespace

World::Options World::from_environment() {
  Options options;
  options.waits.timeout = seconds_of("ROOKERY_COMM_TIMEOUT", options.waits.timeout);
  options.start_limit = seconds_of("ROOKERY_COMM_START_LIMIT", options.start_limit);
  const char* verify = std::getenv("ROOKERY_COMM_VERIFY");
  const std::string_view value(verify ? verify : "");
  if (!value.empty() && value != "0" && value != "1")
    fail(ExitCode::kUsage, "COMM-10", "ROOKERY_COMM_VERIFY: found '", value, "', expected 0 or 1");
  options.waits.verify = value == "1";
  return options;
}

World::World(Options options, const Launch& launch) : told_by_(launch.told_by) {
  fault_point("comm.start");
  if (launch.size > 1) {
    start(launch, options);
    return;
  }
  if (options.use_gpu) options.use_gpu(0);
  hosts_ = {host_name()};
  payload_ = options.payload;
  watch_ = std::make_shared<Watch>(0, 1, options.waits);
}

void World::start(const Launch& launch, Options& options) {
  Lifeline::Options line;
  line.self = {launch.rank, launch.size,     host_name(),         ::getpid(),
               "",          options.version, options.fingerprint, ""};
  line.payload = options.payload;
  line.start_limit = options.start_limit;
  line.leave_limit = options.leave_limit;
  int local_rank = launch.local_rank;
  std::unique_ptr<Listener> listener;
  const bool by_mpi =
      launch.starter == Launch::Starter::kMpi || (launch.starter == Launch::Starter::kSlurm && mpi::built());
  if (by_mpi) {
    session_ = std::make_unique<mpi::Session>();
    if (session_->size() != launch.size)
      fail(ExitCode::kUnavailable, "COMM-05", "the launcher says ", launch.told_by, ", ", mpi::version(),
           " sees ", session_->size(), session_->size() == 1 ? " rank" : " ranks",
           ": they are of different kinds; start with the mpirun of that MPI, or with srun --mpi=pmix");
    line.self.rank = session_->rank();
    if (local_rank < 0) local_rank = session_->local_rank();
    Watch::Options waits;
    waits.timeout = options.start_limit;
    const auto comm =
        session_->communicator(std::make_shared<Watch>(session_->rank(), session_->size(), waits));
    std::string place;  // port, token, addresses
    if (session_->rank() == 0) {
      listener =
          std::make_unique<Listener>(session_->local_size() == session_->size(), 0, options.start_limit);
      place = str(listener->port(), "\n", random_token(), "\n");
      for (const std::string& address : listener->addresses()) place += address + "\n";
      place += host_name() + "\n";
    }
    place = broadcast_text(*comm, place, 0);  // before there is a lifeline
    std::vector<std::string> lines;
    for (size_t at = 0; at < place.size(); at = place.find('\n', at) + 1)
      lines.push_back(place.substr(at, place.find('\n', at) - at));
    RK_CHECK(lines.size() >= 3, "[World] rank 0 told ", lines.size(), " lines");
    line.port = static_cast<int>(std::strtol(lines[0].c_str(), nullptr, 10));
    line.token = lines[1];
    line.addresses.assign(lines.begin() + 2, lines.end());
  } else {
    line.addresses = {launch.address};
    line.port = launch.port;
    if (launch.rank == 0)
      listener =
          std::make_unique<Listener>(means_this_machine(launch.address), launch.port, options.start_limit);
  }
  std::exception_ptr refused;
  if (options.use_gpu) try {
      line.self.gpu = options.use_gpu(std::max(0, local_rank));
    } catch (const Error& e) {
      line.self.failure = e.what();
      refused = std::current_exception();
    }
  const Member self = line.self;
  try {
    lifeline_ = std::make_unique<Lifeline>(std::move(line), std::move(listener));
  } catch (const Error&) {
    if (refused) std::rethrow_exception(refused);
    throw;
  }
  hosts_ = lifeline_->hosts();
  payload_ = lifeline_->payload();
  watch_ = std::make_shared<Watch>(self.rank, self.size, options.waits, hosts_);
  lifeline_->guard(watch_);
  local_size_ = 0;
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) local_rank_ = local_size_;
    local_size_ += host(r) == host(rank());
  }
}

World::~World() {
  if (!finished_) watch_->abort(ExitCode::kPeerFailed, "it left before the others");
}

Communicator& World::communicator() {
  if (!communicator_) {
    if (size() > 1 && !session_)
      fail(ExitCode::kUnavailable, "COMM-09", "the launcher says ", told_by_,
           ", but it did not start the ranks by MPI, which ranks on the CPU need; start them with mpirun or "
           "with "
           "srun --mpi=pmix",
           mpi::built() ? "" : ", and this program was built without MPI");
    communicator_ = session_ ? session_->communicator(watch_) : self_communicator();
  }
  return *communicator_;
}

void World::run(const std::function<void()>& body) {
  try {
    body();
    finish();
  } catch (const Error& e) {
    watch_->abort(e.code(), e.id().empty() ? e.what() : str(e.id(), ": ", e.what()));
    throw;
  } catch (const std::exception& e) {
    watch_->abort(ExitCode::kInternal, e.what());
    throw;
  }
}

void World::finish() {
  watch_->set_phase("end");
  communicator_.reset();
  if (lifeline_) lifeline_->finish();
  if (session_) session_->finish();
  finished_ = true;
}

}  // namespace rookery
