// fault.h: named fault points. Compiled in always, active only when ROOKERY_FAULT is set, e.g.
//   ROOKERY_FAULT="ckpt.rename@2:kill"          the second time that point is passed, SIGKILL
//   ROOKERY_FAULT="ckpt.shard.write@3:enospc"   that write fails with ENOSPC
//   ROOKERY_FAULT="ckpt.shard.write:eio"        every write of a shard fails with EIO
//   ROOKERY_FAULT="*@17:kill"                   the 17th point passed, whatever its name ("ckpt.*" takes a
//   prefix; data.read and comm.collective, whose order is no fixed one, are not met by '*')
// actions: kill, stop, throw, delay=MS, enospc, eio, short, flip, nan, and list, which prints the name of
// each point to standard error as it is passed. Several, separated by ','. A point must stand in the table of
// fault.cpp, which `rookery doctor --fault-points` prints.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rookery {

enum class FaultAction { kNone, kEnospc, kEio, kShortWrite, kBitFlip, kNan };

// Passes the point `name`: does kill, stop, throw, delay and list itself; returns the others for the caller
// to act on. Thread-safe. Errors: FAULT-01 (what `throw` throws, kIo), FAULT-02 (ROOKERY_FAULT does not
// follow the grammar, kUsage).
FaultAction fault_point(std::string_view name);

// The points that this process has passed, in the order of their first use, for tests that enumerate them.
struct FaultPointUse {
  std::string name;
  long count;
};
std::vector<FaultPointUse> fault_points_seen();

// Every point that the program has, with one line of help.
struct FaultPointInfo {
  std::string_view name, help;
};
const std::vector<FaultPointInfo>& fault_point_table();

}  // namespace rookery
