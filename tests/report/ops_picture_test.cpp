// The picture of the operators' benchmark, from a table as `cairn bench ops --device cuda --csv` writes it.
#include "cairn/report/ops_picture.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/report/csv_table.h"
#include "cairn/report/data.h"

namespace cairn::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kHead = "operator,direction,path,L,C,H,G,D,N,ms,GB/s,TFLOP/s,% of copy,% of product\n";

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST(OpsPicture, DrawsWhatTheTableHolds) {
  const std::string table = std::string("# a remark, with commas\n") + kHead +
                            "copy,forward,kernel,,,,,,,0.55,3900,,100,\n"
                            "selection,forward,kernel,1,64,1,,512,8,0.0127,5,0.02,0.1,0.01\n"
                            "selection,forward,kernel,1,4096,1,,512,8,0.019,220,0.2,5.6,0.03\n"
                            "selection,forward,plain,1,64,1,,512,8,0.93,0.1,0.001,0.01,0.01\n"
                            "swiglu,forward,kernel,65536,,,,1344,,0.15,3492,,88.8,\n"
                            "swiglu,forward and backward,kernel,65536,,,,1344,,0.4056,3475,,88.4,\n"
                            "window attention,forward,kernel,65536,,8,2,64,129,0.25,,68.8,,9.3\n";
  const std::string svg = draw_ops_picture(table, "table.csv");
  EXPECT_THAT(svg, HasSubstr("<svg xmlns="));
  EXPECT_THAT(svg, HasSubstr("Selection for one token"));
  EXPECT_THAT(svg, HasSubstr("landmarks at the copy"));
  // A tip says what was measured, and the limit is that share of it: 0.019 ms x 5.6 %.
  EXPECT_THAT(svg, HasSubstr("chunks 4096: 0.019"));
  EXPECT_THAT(svg, HasSubstr("chunks 4096: 0.00106"));
  EXPECT_THAT(svg, HasSubstr("4 heads a K/V head: 68.8"));
  EXPECT_THAT(svg, HasSubstr("SwiGLU"));
  // Nothing of what was not measured, and no chart without a point.
  EXPECT_THAT(svg, Not(HasSubstr("norm and rotation")));
  EXPECT_THAT(svg, Not(HasSubstr("Cross-entropy")));
  EXPECT_EQ(count(svg, "<svg "), 1u);  // one file that stands alone
  EXPECT_THAT(svg, Not(HasSubstr("href=\"http")));
  EXPECT_EQ(svg, draw_ops_picture(table, "table.csv"));
}

TEST(OpsPicture, SaysWhatIsNoTable) {
  const std::string two_columns = fmt::format("{}a,b\n", kHead);
  for (const std::string& text : {std::string(), std::string("# nothing\n"), std::string(kHead), std::string("1,2,3\n"), two_columns}) {
    try {
      draw_ops_picture(text, "table.csv");
      ADD_FAILURE() << text;
    } catch (const UserError& error) {
      EXPECT_THAT(error.what(), HasSubstr("table.csv"));
    }
  }
}

TEST(CsvTable, EmptyAndOtherValuesAreMissing) {
  const std::vector<CsvRow> rows = read_csv("a,L\n1.5,\nx,2\nL,b\n3,4\n", "t", "L");
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(csv_number(rows[0], "a"), 1.5);
  EXPECT_TRUE(std::isnan(csv_number(rows[0], "L")));
  EXPECT_TRUE(std::isnan(csv_number(rows[1], "a")));
  EXPECT_TRUE(std::isnan(csv_number(rows[1], "none")));
  EXPECT_EQ(csv_number(rows[2], "b"), 4);
}

}  // namespace
}  // namespace cairn::report
