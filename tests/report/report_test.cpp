// The report as a whole: what is written, from whole and from poor inputs.
#include "cairn/report/report.h"

#include <regex>

#include "report/synthetic.h"

namespace cairn::report {
namespace {

size_t count(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + what.size())) ++n;
  return n;
}

TEST_F(ReportTest, OneFileHoldsTheNumbersAndLoadsNothing) {
  const fs::path eval = write("e.json", make_eval("runs/tiny/latest", {with_floor(make_cell("single_needle", 128, 60, 60), 20, 3),
                                                                       with_floor(make_cell("single_needle", 131072, 60, 59), 20, 0)}));
  std::string metrics = json({{"kind", "start"}, {"config", {{"lr", 0.003}}}, {"environment", {{"cpu", "Training CPU"}}}}).dump() + "\n";
  metrics += json({{"kind", "phase"}, {"step", 1}, {"tokens", 500}, {"length", 256}, {"top_k", 4}}).dump() + "\n";
  for (int i = 1; i <= 30; ++i) metrics += make_step(i, 5.0 / i).dump() + "\n";
  metrics += json({{"kind", "validation"}, {"step", 30}, {"tokens", 30000}, {"loss", 0.321}}).dump() + "\n";
  write("run/metrics.jsonl", metrics);
  write("run/config.toml", std::string("[train]\nlr = 3e-3 # <i>fast</i>\n"));
  const fs::path html = folder_ / "report.html";
  write_report({eval, folder_ / "run"}, html);

  const std::string page = slurp(html);
  EXPECT_EQ(tag_errors(page), "");
  for (const char* text : {"98.3 %", "1,024", "window only", "Training CPU", "Some CPU", "cairn eval runs/tiny/latest", "59 of 60 right",
                           "lr = 3e-3 # &lt;i&gt;", "trained on 128", "length 256", "validation loss 0.321", "43.2k", "90\u2013100 %",
                           "no sample", "prefers-color-scheme: dark"}) {
    EXPECT_NE(page.find(text), std::string::npos) << text;
  }
  std::string local = page;
  for (size_t at; (at = local.find("http://www.w3.org/2000/svg")) != std::string::npos;) local.erase(at, 26);
  EXPECT_EQ(local.find("://"), std::string::npos);
  EXPECT_FALSE(std::regex_search(local, std::regex("<(link|img|iframe|object|embed)|@import|src=|href=")));
  EXPECT_EQ(count(page, "role=\"img\""), count(page, "<svg"));
  EXPECT_EQ(count(page, "<desc "), count(page, "<svg"));
  EXPECT_EQ(page.find("nan"), std::string::npos);

  const json numbers = json::parse(slurp(folder_ / "report.json"));
  EXPECT_EQ(numbers["kind"], "report");
  EXPECT_EQ(numbers["evaluations"][0]["cells"][1]["correct"], 59);
  EXPECT_EQ(numbers["evaluations"][0]["cells"][1]["floor_samples"], 20);
  EXPECT_TRUE(numbers["evaluations"][0]["cells"][1]["generated_correct"].is_null());
  EXPECT_EQ(numbers["verdict"], report_verdict({eval, folder_ / "run"}));
  const std::string csv = slurp(folder_ / "report.csv");
  EXPECT_EQ(count(csv, "\r\n"), 3u);
  EXPECT_NE(csv.find("tiny,f00d,books,1,128,single_needle,131072,60,59,0.98333"), std::string::npos);
  const size_t columns = count(csv.substr(0, csv.find('\n')), ",");
  EXPECT_EQ(count(csv, ","), 3 * columns) << "every row has every column";
  EXPECT_EQ(count(slurp(folder_ / "report.training.csv"), "\r\n"), 31u);

  write_report({eval, folder_ / "run"}, html);
  EXPECT_EQ(slurp(html), page) << "the same inputs give the same bytes";
}

TEST_F(ReportTest, TimesAndMemoryAreShown) {
  json cell = make_cell("t", 4096, 10, 10);
  cell["seconds_reading"] = 9.5, cell["seconds_edits"] = 1, cell["seconds_asking"] = 2, cell["seconds_generating"] = 0;
  cell["decode_milliseconds"] = 3.25, cell["state_bytes"] = 7340032, cell["device_peak_bytes"] = 123456789,
  cell["device_current_bytes"] = nullptr;
  write_report({write("e.json", make_eval("m", {cell}))}, folder_ / "r.html");
  const std::string page = slurp(folder_ / "r.html");
  EXPECT_EQ(tag_errors(page), "");
  for (const char* text : {"3.25 ms a generated token", "7.34 MB kept", "123 MB held by the GPU", "<td>9.5</td>", "Where the time went"}) {
    EXPECT_NE(page.find(text), std::string::npos) << text;
  }
  const std::string csv = slurp(folder_ / "r.csv");
  EXPECT_NE(csv.find(",9.5,1,2,0,3.25,7340032,123456789,,"), std::string::npos);
  EXPECT_EQ(json::parse(slurp(folder_ / "r.json"))["evaluations"][0]["cells"][0]["decode_milliseconds"], 3.25);
  cell["decode_milliseconds"] = -1;
  EXPECT_THROW(write_report({write("e.json", make_eval("m", {cell}))}, folder_ / "r.html"), UserError);
  // A file of before has none of them: no empty table, no empty chart.
  write_report({write("old.json", make_eval("m", {make_cell("t", 4096, 10, 10)}))}, folder_ / "r.html");
  EXPECT_EQ(slurp(folder_ / "r.html").find("Where the time went"), std::string::npos);
}

TEST_F(ReportTest, DiagnosisIsShown) {
  const auto mean = [](double value, double error, int64_t count) {
    return json{{"mean", value}, {"standard_error", error}, {"count", count}};
  };
  const json nothing = {{"mean", nullptr}, {"standard_error", nullptr}, {"count", 0}};
  json cell = make_cell("t", 4096, 10, 10);
  json retrieval = {{"rows", 70},         {"rank_median", 1}, {"rank_90", 12345}, {"recall_at_1", .5}, {"kl", mean(.625, .0625, 70)},
                    {"spearman", nothing}};
  cell["diagnosis"] = {{"retrievals", {retrieval}}, {"source_drop", mean(4.5, .25, 60)}, {"other_drop", mean(-.125, .5, 60)}};
  write_report({write("e.json", make_eval("m", {cell}))}, folder_ / "r.html");
  const std::string page = slurp(folder_ / "r.html");
  EXPECT_EQ(tag_errors(page), "");
  for (const char* text : {"Retrieval in detail", "12,345", "0.625 <small>\u00b1 0.062", "4.500 <small>\u00b1 0.250", "-0.125"}) {
    EXPECT_NE(page.find(text), std::string::npos) << text;
  }
  const json numbers = json::parse(slurp(folder_ / "r.json"))["evaluations"][0]["cells"][0]["diagnosis"];
  EXPECT_EQ(numbers["retrievals"][0]["rank_90"], 12345);
  EXPECT_TRUE(numbers["retrievals"][0]["spearman"]["mean"].is_null());
  EXPECT_EQ(numbers["source_drop"]["count"], 60);
  const auto refused = [&](json bad) {
    EXPECT_THROW(write_report({write("e.json", make_eval("m", {bad}))}, folder_ / "r.html"), UserError) << bad;
  };
  json bad = cell;
  bad["diagnosis"]["source_drop"]["count"] = 0;
  refused(bad);
  bad = cell;
  bad["diagnosis"]["retrievals"][0]["rank_median"] = 0;
  refused(bad);
  bad = cell;
  bad["diagnosis"]["retrievals"] = 3;
  refused(bad);
}

TEST_F(ReportTest, EverythingFromFilesIsEscaped) {
  const std::string evil = "</script><script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;";
  json e = make_eval(evil, {make_cell(evil, 128, 10, 10), make_cell(evil, 256, 10, 3)});
  for (const char* key : {"fingerprint", "created", "haystack", "command", "cairn", "seed"}) e[key] = evil;
  e["environment"] = {{evil, evil}};
  e["config"] = {{evil, {{evil, evil}}}};
  const fs::path eval = write("<b>&'.json", e);
  json step = make_step(1, 1.0);
  step["skill"] = {{evil, 0.5}};
  step["loss_by_task"] = {{evil, 0.5}};
  const json phase = {{"kind", "phase"}, {"step", 1}, {"tokens", 1000}, {"length", evil}, {evil, evil}};
  write("<i>run/metrics.jsonl", json({{"kind", "start"}, {"config", {{evil, evil}}}, {"environment", {{evil, evil}}}}).dump() + "\n" +
                                    step.dump() + "\n" + phase.dump() + "\n");
  write("<i>run/config.toml", "x = \"" + evil + "\"\n\xff\xfe\x01 broken");
  write_report({eval, folder_ / "<i>run"}, folder_ / "r.html");
  write_pictures({eval}, folder_ / "a.svg", folder_ / "h.svg");
  for (const char* file : {"r.html", "a.svg", "h.svg"}) {
    const std::string page = slurp(folder_ / file);
    EXPECT_EQ(tag_errors(page), "") << file;
    EXPECT_EQ(page.find("<script>"), std::string::npos) << file;
    EXPECT_EQ(page.find("<img"), std::string::npos) << file;
    EXPECT_EQ(page.find("<i>"), std::string::npos) << file;
    EXPECT_EQ(page.find('\x01'), std::string::npos) << file;
    EXPECT_EQ(page.find('\xff'), std::string::npos) << file;
  }
  EXPECT_EQ(count(slurp(folder_ / "r.html"), "<script"), 1u);
  EXPECT_TRUE(json::accept(slurp(folder_ / "r.json")));
  const std::string csv = slurp(folder_ / "r.csv");
  EXPECT_NE(csv.find("\"</script><script>alert('x')</script>\"\"><img"), std::string::npos) << "quotes are doubled";
}

TEST_F(ReportTest, PoorInputsStillGiveAPage) {
  json bare = {{"kind", "eval"}, {"cells", json::array()}};
  const fs::path none = write("none.json", bare);
  bare["cells"].push_back({{"task", "t"}, {"length", 100000}, {"samples", 0}, {"correct", 0}});
  const fs::path unmeasured = write("unmeasured.json", bare);
  bare["cells"] = {{{"task", "t"}, {"length", 1}, {"samples", 1}, {"correct", 1}}};
  const fs::path single = write("single.json", bare);
  for (const fs::path& input : {none, unmeasured, single}) {
    write_report({input}, folder_ / "r.html");
    write_pictures({input}, folder_ / "a.svg", folder_ / "h.svg");
    for (const char* file : {"r.html", "a.svg", "h.svg"}) {
      const std::string page = slurp(folder_ / file);
      EXPECT_EQ(tag_errors(page), "") << input << file;
      EXPECT_FALSE(std::regex_search(page, std::regex("[\" ,(]-?(nan|inf)"))) << input << file;
    }
  }
  EXPECT_NE(report_verdict({none}).find("not been measured"), std::string::npos);
}

TEST_F(ReportTest, NumbersThatAreNoneLeaveGaps) {
  json missing = make_step(2, 1.0);
  missing["loss"] = nullptr;
  missing["skill"] = {{"single_needle", nullptr}};
  json huge = make_step(3, 1e308);
  huge["grad_norm"] = -1e308;
  json zero = make_step(4, 0);
  zero["lr"] = 0;
  const std::string text = make_step(1, 1.0).dump() + "\n" + missing.dump() + "\n" + huge.dump() + "\n" + zero.dump() + "\n";
  const fs::path run = write("run/metrics.jsonl", text).parent_path();
  const fs::path one = write("one/metrics.jsonl", make_step(1, 1.0).dump() + "\n").parent_path();
  write_report({run, one}, folder_ / "r.html");
  const std::string page = slurp(folder_ / "r.html");
  EXPECT_EQ(tag_errors(page), "");
  EXPECT_FALSE(std::regex_search(page, std::regex("[\" ,(]-?(nan|inf)")));
  EXPECT_NE(page.find("1 of 4 steps have no loss that is a number"), std::string::npos);
  EXPECT_NE(page.find("Mean skill, all runs"), std::string::npos);
}

TEST_F(ReportTest, SeveralModelsAreCompared) {
  json a = make_eval("runs/a/latest", {make_cell("single_needle", 128, 50, 50), make_cell("single_needle", 256, 50, 50)});
  json b = make_eval("runs/b/latest", {make_cell("single_needle", 128, 50, 20), make_cell("other", 512, 50, 5)});
  b["fingerprint"] = "beef";
  write_report({write("a.json", a), write("b.json", b)}, folder_ / "r.html");
  const std::string page = slurp(folder_ / "r.html");
  EXPECT_EQ(tag_errors(page), "");
  EXPECT_NE(page.find("Trained on texts of 128 tokens, a answers"), std::string::npos);
  EXPECT_NE(page.find("Trained on texts of 128 tokens, b reaches 95\u00a0% at no length"), std::string::npos);
  EXPECT_NE(page.find("var(--c1)"), std::string::npos);
  write_pictures({folder_ / "a.json", folder_ / "b.json"}, folder_ / "a.svg", {});
  const std::string picture = slurp(folder_ / "a.svg");
  EXPECT_EQ(tag_errors(picture), "");
  EXPECT_EQ(picture.find("var("), std::string::npos) << "a picture that stands alone has its own colours";
  EXPECT_FALSE(fs::exists(folder_ / "h.svg"));
}

TEST_F(ReportTest, NoInputIsOverwritten) {
  const fs::path eval = write("r.json", make_eval("m", {make_cell("t", 128, 10, 10)}));
  const std::string before = slurp(eval);
  EXPECT_THROW(write_report({eval}, folder_ / "r.html"), UserError);
  EXPECT_THROW(write_report({eval}, folder_ / "x.txt"), UserError);
  EXPECT_THROW(write_report({eval}, folder_ / "nowhere" / "x.html"), UserError);
  EXPECT_THROW(write_pictures({eval}, folder_ / "x.png", {}), UserError);
  EXPECT_THROW(write_report({}, folder_ / "x.html"), UserError);
  EXPECT_EQ(slurp(eval), before);
  EXPECT_FALSE(fs::exists(folder_ / "r.html"));
}

TEST_F(ReportTest, CheckerOfTagsFindsWhatIsWrong) {
  EXPECT_EQ(tag_errors("<a><b c=\"d\"/></a>"), "");
  EXPECT_NE(tag_errors("<a><b></a></b>"), "");
  EXPECT_NE(tag_errors("<a>"), "");
  EXPECT_NE(tag_errors("<a> 1 < 2 </a>"), "");
  EXPECT_NE(tag_errors("<a><b id=\"x\"/><c id=\"x\"/></a>"), "");
}

}  // namespace
}  // namespace cairn::report
