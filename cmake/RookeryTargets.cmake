# rookery_library(NAME SOURCES ... [DEPS ...] [PRIVATE_DEPS ...]): one static library; headers are included from the project root.
# rookery_cpu_kernels(NAME SOURCES ... [DEPS ...]): the same sources built once per instruction set (see kernels/ops/backend.h).
# rookery_test(NAME SOURCES ... [LABELS ...] [DEPS ...]): one GoogleTest program, each TEST a ctest test.

find_program(ROOKERY_CCACHE ccache)
if(ROOKERY_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${ROOKERY_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${ROOKERY_CCACHE})
endif()

function(rookery_compile_options target)
  # -Wno-restrict: g++ 12 warns of an overlap inside std::string itself (GCC bug 105651).
  target_compile_options(${target} PRIVATE -Wall -Wextra $<$<CXX_COMPILER_ID:GNU>:-Wshadow=local> -Wno-unknown-pragmas $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict> -fopenmp-simd -fno-math-errno)
  if(ROOKERY_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(ROOKERY_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${ROOKERY_SANITIZE} -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=${ROOKERY_SANITIZE})
  endif()
  target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR})
endfunction()

function(rookery_library name)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  rookery_compile_options(${name})
  target_link_libraries(${name} PUBLIC ${A_DEPS} PRIVATE ${A_PRIVATE_DEPS})
endfunction()

# One instruction set per copy; the namespace (RK_BACKEND) differs, so nothing of one copy can be taken for another.
set(ROOKERY_CPU_ISAS portable avx2 avx512)
set(ROOKERY_ISA_FLAGS_portable "")
set(ROOKERY_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c -mbmi2)
set(ROOKERY_ISA_FLAGS_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(ROOKERY_CPU_ISAS portable)
endif()

function(rookery_cpu_kernels name)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} INTERFACE)
  foreach(isa ${ROOKERY_CPU_ISAS})
    add_library(${name}_${isa} STATIC ${A_SOURCES})
    rookery_compile_options(${name}_${isa})
    target_compile_options(${name}_${isa} PRIVATE -O3 -fno-trapping-math ${ROOKERY_ISA_FLAGS_${isa}})
    target_compile_definitions(${name}_${isa} PRIVATE RK_BACKEND=cpu_${isa})
    target_link_libraries(${name}_${isa} PUBLIC ${A_DEPS})
    target_link_libraries(${name} INTERFACE ${name}_${isa})
  endforeach()
endfunction()

function(rookery_test name)
  cmake_parse_arguments(A "" "TIMEOUT" "SOURCES;LABELS;DEPS" ${ARGN})
  if(NOT A_LABELS)
    set(A_LABELS unit)
  endif()
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 600)
  endif()
  add_executable(${name} ${A_SOURCES})
  rookery_compile_options(${name})
  target_link_libraries(${name} PRIVATE ${A_DEPS} GTest::gtest GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  gtest_discover_tests(${name} TEST_PREFIX "${name}/" DISCOVERY_MODE PRE_TEST WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
    PROPERTIES LABELS "${A_LABELS}" TIMEOUT ${A_TIMEOUT} ENVIRONMENT "ROOKERY_BIN=$<TARGET_FILE:rookery>"
      # Its last line: a test is also called skipped where the set-up of its suite failed, which is said after it.
      SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\] [^\n]*\n*$")
  add_dependencies(${name} rookery)
endfunction()
