// comm_stream.h: collectives beside the computation, in the order in which they were handed over. What runs
// them and who may destroy what: comm_stream.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "parallel/comm/communicator.h"

namespace rookery {

// A queue of work that one thread of its own does; of a GPU, the accelerator's second stream. Every rank
// submits the same collectives in the same order, on communicators that nobody else uses meanwhile: a
// communicator for the queue and one for the caller's own calls are two splits of the world. Work must not
// allocate from a Device, nor free: what it holds is let go by the caller's thread, in wait().
class CommStream {
 public:
  using Ticket = uint64_t;  // 1, 2, .. in order; 0 is always done

  // `world` (or any communicator that is split from the same world) is told when this rank leaves in haste.
  explicit CommStream(Communicator& world);
  // The same where `device` is on the host. On a GPU work is launched by submit() itself, wait() lets the
  // device's later work wait instead of the host, and errors come from the calls themselves.
  CommStream(Communicator& world, Device& device);
  CommStream(const CommStream&) = delete;
  CommStream& operator=(const CommStream&) = delete;
  // Waits for what was submitted. Where an exception is on its way out, the others will not come any more:
  // the work is aborted instead, and what has not begun is dropped.
  ~CommStream();

  // After work that failed this throws what that threw.
  Ticket submit(std::function<void()> work);
  // Until the work of this ticket and of all before it is done; lets go what that holds. Throws what one of
  // these threw, each time.
  void wait(Ticket ticket);
  void finish() { wait(last()); }
  bool done(Ticket ticket) const;  // without waiting; true of work that failed, and of all work of a GPU
  Ticket last() const;             // the newest, 0 where there is none

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rookery
