#include "cairn/model/oracle.h"

#include <gtest/gtest.h>

#include <fstream>

namespace cairn {
namespace {

TEST(Oracle, EveryCaseAgrees) {
  const fs::path cases = fs::path(CAIRN_SOURCE_DIR) / ".." / "shared" / "oracle" / "cases";
  if (!fs::is_directory(cases)) GTEST_SKIP() << "no folder of oracle cases beside the checkout";
  const std::vector<OracleResult> results = run_oracle(cases);
  EXPECT_GE(results.size(), 20U);
  for (const OracleResult& r : results) {
    EXPECT_TRUE(r.agrees()) << r.name << ": " << r.failure << " outputs " << r.output_error << " (" << r.worst_output << "), gradients "
                            << r.gradient_error << " (" << r.worst_gradient << ")";
  }
}

TEST(Oracle, UnreadableCaseDoesNotAgree) {
  const fs::path file = fs::temp_directory_path() / "cairn_oracle_broken.safetensors";
  std::ofstream(file, std::ios::binary) << "not a case";
  const OracleResult r = run_oracle_case(file);
  EXPECT_FALSE(r.agrees());
  EXPECT_FALSE(r.failure.empty());
  fs::remove(file);
}

}  // namespace
}  // namespace cairn
