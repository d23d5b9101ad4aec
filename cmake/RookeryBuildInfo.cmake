# Run at every build (cmake -P): writes OUT with the git revision of SOURCE_DIR, only if its content changes, so an unchanged tree relinks nothing.
execute_process(COMMAND git -C ${SOURCE_DIR} describe --always --dirty --abbrev=12 --exclude=*
  OUTPUT_VARIABLE revision OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(revision "unknown")
endif()
file(CONFIGURE OUTPUT ${OUT} @ONLY CONTENT [[
// Written by cmake/RookeryBuildInfo.cmake.
#pragma once
#define ROOKERY_BUILD_VERSION "@VERSION@"
#define ROOKERY_BUILD_REVISION "@revision@"
#define ROOKERY_BUILD_COMPILER "@COMPILER@"
#define ROOKERY_BUILD_YAML_CPP "@YAML_CPP@"
]])
