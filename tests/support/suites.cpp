// suites.cpp, in every test program: a suite whose set-up failed ends it. gtest would call the suite's tests
// skipped, and ctest would believe it.
#include <gtest/gtest.h>

#include <cstdlib>

namespace {

class FailedSetUpEndsAll : public testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo&) override {
    if (testing::UnitTest::GetInstance()->current_test_suite()->ad_hoc_test_result().Failed()) std::abort();
  }
};

[[maybe_unused]] const bool kListens =
    (testing::UnitTest::GetInstance()->listeners().Append(new FailedSetUpEndsAll), true);

}  // namespace
