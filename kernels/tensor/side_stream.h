// side_stream.h: a second queue of work on a GPU, for what may run beside the first (CommStream). An
// Accelerator that has one implements this too.
#pragma once

#include <functional>
#include <memory>

namespace rookery {

class SideStream {
 public:
  class Point {  // in the second queue
   public:
    virtual ~Point() = default;
  };
  virtual ~SideStream() = default;
  // What `work` asks of the accelerator goes to the second queue, behind all that was asked for so far; the
  // host does not wait. Not for matrix products. The result is the end of it.
  virtual std::unique_ptr<Point> aside(const std::function<void()>& work) = 0;
  // What is asked for from now on comes after the point.
  virtual void join(const Point& point) = 0;
};

}  // namespace rookery
