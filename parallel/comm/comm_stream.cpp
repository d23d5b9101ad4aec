// comm_stream.cpp: one thread takes the work in order (parallel/comm/comm_stream.h). The work itself, with
// the tensors that it holds, stays in the queue until the caller waits for it: arenas belong to one thread,
// and a planned step must see blocks freed at the same places each time.
#include "parallel/comm/comm_stream.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "kernels/tensor/side_stream.h"

namespace rookery {

struct CommStream::State {
  explicit State(Communicator& of) : world(of) {}

  Communicator& world;
  const int exceptions = std::uncaught_exceptions();
  mutable std::mutex mutex;
  mutable std::condition_variable wake;
  std::deque<std::function<void()>> work;  // of the tickets (released, submitted]
  Ticket released = 0, completed = 0, submitted = 0;
  std::exception_ptr failure;  // of ticket completed + 1
  bool closing = false;        // when the queue is empty
  bool abandoned = false;      // at once
  std::thread thread;
  SideStream* side = nullptr;  // of a GPU, instead of the thread
  std::unique_ptr<SideStream::Point> end;

  void loop() {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return closing || completed < submitted; });
      if (abandoned || completed == submitted) return;
      const std::function<void()>& next = work[completed - released];  // deque: others are added beside it
      lock.unlock();
      std::exception_ptr thrown;
      try {
        next();
      } catch (...) {
        thrown = std::current_exception();
      }
      lock.lock();
      if (thrown) {
        failure = thrown;
      } else {
        ++completed;
      }
      wake.notify_all();
      if (failure) return;
    }
  }
  bool over(Ticket ticket) const { return completed >= ticket || failure; }
};

CommStream::CommStream(Communicator& world, Device& device) : state_(std::make_unique<State>(world)) {
  if (device.on_host()) {
    state_->thread = std::thread([s = state_.get()] { s->loop(); });
  } else {
    state_->side = dynamic_cast<SideStream*>(&device.accelerator());
    RK_CHECK(state_->side != nullptr, "[CommStream] ", device.accelerator().name(), " has one stream");
  }
}

CommStream::CommStream(Communicator& world) : state_(std::make_unique<State>(world)) {
  state_->thread = std::thread([s = state_.get()] { s->loop(); });
}

CommStream::~CommStream() {
  State& s = *state_;
  if (s.side) try {
      if (s.end) s.side->join(*s.end);  // what is let go now is used again behind that
      return;
    } catch (const Error&) {
      return;  // a GPU that failed: its next call tells
    }
  {
    std::lock_guard lock(s.mutex);
    s.abandoned = std::uncaught_exceptions() > s.exceptions && !s.over(s.submitted);
    s.closing = true;
    s.wake.notify_all();
  }
  if (s.abandoned) s.world.abort("left by an error while its collectives were under way");
  s.thread.join();
}

CommStream::Ticket CommStream::submit(std::function<void()> work) {
  State& s = *state_;
  std::lock_guard lock(s.mutex);
  if (s.failure) std::rethrow_exception(s.failure);
  if (s.side) {
    s.end = s.side->aside(work);
    ++s.completed;
  }
  s.work.push_back(std::move(work));
  s.wake.notify_all();
  return ++s.submitted;
}

void CommStream::wait(Ticket ticket) {
  State& s = *state_;
  std::deque<std::function<void()>> released;  // destroyed without the lock
  std::unique_lock lock(s.mutex);
  RK_CHECK(ticket <= s.submitted, "[CommStream] ticket ", ticket, " of ", s.submitted);
  s.wake.wait(lock, [&] { return s.over(ticket); });
  if (s.completed < ticket) std::rethrow_exception(s.failure);
  if (s.side && ticket > s.released) s.side->join(*s.end);
  for (; s.released < ticket; ++s.released) {
    released.push_back(std::move(s.work.front()));
    s.work.pop_front();
  }
}

bool CommStream::done(Ticket ticket) const {
  std::lock_guard lock(state_->mutex);
  return state_->over(ticket);
}

CommStream::Ticket CommStream::last() const {
  std::lock_guard lock(state_->mutex);
  return state_->submitted;
}

}  // namespace rookery
