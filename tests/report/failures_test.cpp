// The classes of failures on the page, in the files beside it, and in files that contradict themselves.
#include "cairn/report/data.h"
#include "cairn/report/report.h"
#include "report/synthetic.h"

namespace cairn::report {
namespace {

using Failures = ReportTest;

TEST_F(Failures, StandUnderTheHeatMap) {
  const json bad = with_failures(make_cell("multi_query", 4096, 40, 30), 5, 3, 2, 0),
             good = with_failures(make_cell("other", 4096, 40, 40), 0, 0, 0, 0);
  const fs::path eval = write("e.json", make_eval("m", {bad, good, make_cell("old", 4096, 40, 1)}));
  write_report({eval}, folder_ / "r.html");
  const std::string page = slurp(folder_ / "r.html");
  EXPECT_EQ(tag_errors(page), "");
  EXPECT_NE(page.find("chunk not found: 5 of 40 samples"), std::string::npos);
  EXPECT_NE(page.find("found, not used: 3 of 40 samples"), std::string::npos);
  EXPECT_NE(page.find("misread: 2 of 40 samples"), std::string::npos);
  EXPECT_EQ(page.find("other: why samples failed"), std::string::npos) << "nothing failed there";
  EXPECT_EQ(page.find("old: why samples failed"), std::string::npos) << "not measured there";
  const json numbers = json::parse(slurp(folder_ / "r.json"));
  EXPECT_EQ(numbers["evaluations"][0]["cells"][0]["failures"]["not_used"], 3);
  const std::string csv = slurp(folder_ / "r.csv");
  EXPECT_NE(csv.find("failed_not_found,failed_not_used,failed_misread,failed_no_source"), std::string::npos);
  EXPECT_NE(csv.find(",5,3,2,0,"), std::string::npos);
}

TEST_F(Failures, MustAddUp) {
  const auto refused = [&](const json& cell, const std::string& what) {
    try {
      read_evaluation(write("bad.json", make_eval("m", {cell})));
      FAIL() << "taken: " << cell["failures"];
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    }
  };
  const json cell = make_cell("t", 4096, 40, 30);
  refused(with_failures(cell, 5, 3, 1, 0), "9 in all, but 10 of 40");
  refused(with_failures(cell, -1, 3, 8, 0), "not_found");
  json other = cell;
  other["failures"] = {{"not_found", 10}};
  refused(other, "not_used");
  other["failures"] = 3;
  refused(other, "expected an object");
}

}  // namespace
}  // namespace cairn::report
