// fault.h: named fault points. Compiled in always, active only when ROOKERY_FAULT is set, e.g.
//   ROOKERY_FAULT="ckpt.rename@2:kill"          the second time that point is passed, SIGKILL
//   ROOKERY_FAULT="ckpt.write@3:enospc"         that write fails with ENOSPC
//   ROOKERY_FAULT="*@17:kill"                   the 17th point passed, whatever its name
// actions: kill, stop, throw, delay=MS, enospc, eio, short, flip, nan. Several, separated by ','.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rookery {

enum class FaultAction { kNone, kEnospc, kEio, kShortWrite, kBitFlip, kNan };

// Passes the point `name`: does kill, stop, throw and delay itself; returns the others for the caller to act
// on.
FaultAction fault_point(std::string_view name);

// How many points this process has passed (all names), and the names seen, for tests that enumerate them.
struct FaultPointUse {
  std::string name;
  long count;
};
std::vector<FaultPointUse> fault_points_seen();

// Every point that the program has, with one line of help: `rookery doctor --fault-points`.
struct FaultPointInfo {
  std::string_view name, help;
};
const std::vector<FaultPointInfo>& fault_point_table();

}  // namespace rookery
