// Readers: good files, files cut off by a crash, hostile files; the arithmetic behind the words.
#include <algorithm>
#include <cmath>

#include "cairn/report/chart.h"
#include "cairn/report/data.h"
#include "cairn/report/summary.h"
#include "cairn/report/svg.h"
#include "report/synthetic.h"

namespace cairn::report {
namespace {

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const UserError& e) {
    return e.what();
  }
  return "no error";
}

TEST_F(ReportTest, WilsonMatchesPublishedValues) {
  // 10 of 10: z^2 / (n + z^2) lies below; 0 of 10 mirrors it. 81 of 263: Newcombe 1998, table I, method 3 (.2553, .3662).
  EXPECT_NEAR(wilson(10, 10).low, 0.722467, 1e-6);
  EXPECT_EQ(wilson(10, 10).high, 1);
  EXPECT_NEAR(wilson(0, 10).high, 1 - 0.722467, 1e-6);
  EXPECT_NEAR(wilson(81, 263).low, 0.2553, 5e-5);
  EXPECT_NEAR(wilson(81, 263).high, 0.3662, 5e-5);
  EXPECT_EQ(wilson(0, 0).low, 0);
  EXPECT_EQ(wilson(0, 0).high, 1);
}

TEST_F(ReportTest, BadEvaluationsAreRefusedWithTheirPlace) {
  const json good = make_eval("m", {make_cell("t", 128, 10, 9)});
  EXPECT_NO_THROW(read_evaluation(write("good.json", good)));
  const auto refused = [&](const std::string& expected, const std::function<void(json&)>& spoil) {
    json bad = good;
    spoil(bad);
    const fs::path path = write("bad.json", bad);
    const std::string message = message_of([&] { read_evaluation(path); });
    EXPECT_NE(message.find(expected), std::string::npos) << expected << " | " << message;
    EXPECT_NE(message.find("bad.json"), std::string::npos) << message;
  };
  const auto cell = [](const std::function<void(json&)>& spoil) { return [spoil](json& e) { spoil(e["cells"][0]); }; };
  refused("\"kind\" is \"report\"", [](json& e) { e["kind"] = "report"; });
  refused("\"cells\" is missing", [](json& e) { e.erase("cells"); });
  refused("must be a list", [](json& e) { e["cells"] = 3; });
  refused("expected an object", [](json& e) { e["cells"][0] = 3; });
  refused("expected an object", [](json& e) { e["environment"] = "cpu"; });
  refused("training_length", [](json& e) { e["training_length"] = 0; });
  refused("training_length", [](json& e) { e["training_length"] = 1.5; });
  refused("there twice", [](json& e) { e["cells"].push_back(e["cells"][0]); });
  refused("\"task\" is missing", cell([](json& c) { c.erase("task"); }));
  refused("must be text", cell([](json& c) { c["task"] = json::array(); }));
  refused("\"length\"", cell([](json& c) { c["length"] = -1; }));
  refused("\"length\"", cell([](json& c) { c["length"] = 18446744073709551615ull; }));
  refused("\"correct\" is 11", cell([](json& c) { c["correct"] = 11; }));
  refused("9 of 10 right is 0.9", cell([](json& c) { c["accuracy"] = 0.99; }));
  refused("does not hold the accuracy", cell([](json& c) { c["wilson_low"] = 0.95, c["wilson_high"] = 0.99; }));
  refused("\"recall\"", cell([](json& c) { c["recall"] = {1.5}; }));
  refused("\"recall\"", cell([](json& c) { c["recall"] = "all"; }));
  refused("10 bins", cell([](json& c) { c["depths"].erase(0); }));
  refused("depth bin 2", cell([](json& c) { c["depths"][1]["correct"] = 9; }));
  refused("\"low\" must be below", cell([](json& c) { c["depths"][0]["high"] = 0; }));
  refused("depth bins hold", cell([](json& c) { c["depths"][9]["samples"] = 10; }));
  refused("floor_samples", cell([](json& c) { c["floor_correct"] = 1; }));
  refused("generated_correct", cell([](json& c) { c["generated_correct"] = -1; }));
  refused("tokens_per_second", cell([](json& c) { c["tokens_per_second"] = "fast"; }));
}

TEST_F(ReportTest, CutAndHostileFilesGiveOneClearMessage) {
  const std::string good = make_eval("m", {make_cell("t", 128, 10, 9)}).dump();
  for (size_t length = 0; length < good.size(); ++length) {
    const fs::path path = write("cut.json", good.substr(0, length));
    EXPECT_THROW(read_evaluation(path), UserError) << length;
  }
  const auto message = [&](const std::string& text) { return message_of([&] { read_evaluation(write("x.json", text)); }); };
  EXPECT_NE(message("").find("empty"), std::string::npos);
  EXPECT_NE(message("{\"a\":\n 1,,}").find("line 2, column 4"), std::string::npos) << message("{\"a\":\n 1,,}");
  EXPECT_NE(message(std::string(2000000, '[')).find("nested deeper"), std::string::npos);
  EXPECT_NE(message("{\"kind\": 1e999}").find("too large"), std::string::npos);
  EXPECT_NE(message("{\"kind\": \"\xff\"}").find("not valid JSON"), std::string::npos);
  EXPECT_NE(message("{\"kind\": NaN}").find("not valid JSON"), std::string::npos);
  EXPECT_NE(message("[1]").find("expected an object"), std::string::npos);
  EXPECT_EQ(message("[1]").find("json.exception"), std::string::npos);
  EXPECT_NE(message_of([&] { read_inputs({folder_ / "absent.json"}); }).find("no such file"), std::string::npos);
  EXPECT_NE(message_of([&] { read_inputs({folder_}); }).find("metrics.jsonl"), std::string::npos);
  EXPECT_NE(message_of([&] { read_inputs({write("empty/metrics.jsonl", std::string()).parent_path()}); }).find("empty"), std::string::npos);
}

TEST_F(ReportTest, ACutLastLineIsLeftOutAndSaid) {
  const std::string two = make_step(1, 2).dump() + "\n" + make_step(2, 1).dump();
  const report::Run whole = read_run(write("m.jsonl", two));
  EXPECT_EQ(whole.steps.size(), 2u);
  EXPECT_TRUE(whole.notes.empty());
  const report::Run cut = read_run(write("m.jsonl", two.substr(0, two.size() - 5)));
  EXPECT_EQ(cut.steps.size(), 1u);
  ASSERT_EQ(cut.notes.size(), 1u);
  EXPECT_NE(cut.notes[0].find("Line 2"), std::string::npos);
  const report::Run zeros = read_run(write("m.jsonl", make_step(1, 2).dump() + "\n" + std::string(100, '\0')));
  EXPECT_EQ(zeros.steps.size(), 1u);
  // The same in the middle is an error, unless a resumed run goes on after it.
  const std::string broken = make_step(1, 2).dump() + "\n{\"kind\":\"st\n";
  const std::string message = message_of([&] { read_run(write("m.jsonl", broken + make_step(2, 1).dump() + "\n")); });
  EXPECT_NE(message.find("m.jsonl, line 2"), std::string::npos) << message;
  EXPECT_EQ(read_run(write("m.jsonl", broken + "{\"kind\":\"start\"}\n" + make_step(2, 1).dump() + "\n")).steps.size(), 2u);
  for (const char* line :
       {"{\"kind\":\"step\"}", "{\"kind\":\"step\",\"step\":1}", "{\"kind\":\"step\",\"step\":\"1\",\"tokens\":1}", "3",
        "{\"kind\":\"step\",\"step\":1,\"tokens\":1,\"loss\":\"low\"}", "{\"kind\":\"step\",\"step\":1,\"tokens\":1,\"skill\":[]}",
        "{\"kind\":\"step\",\"step\":1,\"tokens\":1,\"recall\":[[\"a\"]]}", "{\"kind\":\"step\",\"step\":-1,\"tokens\":1}"}) {
    const std::string text = message_of([&] { read_run(write("m.jsonl", std::string("\n") + line + "\n")); });
    EXPECT_NE(text.find("m.jsonl, line 2"), std::string::npos) << line << " | " << text;
  }
}

TEST_F(ReportTest, UnknownKindsAreIgnoredAndRepeatedStepsCountOnce) {
  std::string text = "{\"kind\":\"start\",\"config\":{\"a\":{\"b\":1}}}\n{\"kind\":\"weather\",\"step\":\"sunny\"}\n";
  for (int i = 1; i <= 5; ++i) text += make_step(i, 10).dump() + "\n";
  text +=
      "{\"kind\":\"spike\",\"step\":5,\"tokens\":5000}\n{\"kind\":\"validation\",\"step\":5,\"tokens\":5000,\"loss\":7}\n{\"kind\":"
      "\"start\"}\n";
  for (int i = 4; i <= 6; ++i) text += make_step(i, 20).dump() + "\n";
  const report::Run run = read_run(write("m.jsonl", text));
  ASSERT_EQ(run.steps.size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(run.steps[i].step, static_cast<int64_t>(i) + 1);
    EXPECT_EQ(run.steps[i].loss, i < 3 ? 10 : 20);
  }
  EXPECT_TRUE(run.validation.empty()) << "the measurement of steps that were done again";
  ASSERT_EQ(run.events.size(), 1u);
  EXPECT_EQ(run.events[0].kind, "resume");
  EXPECT_EQ(run.config, (Pairs{{"a.b", "1"}}));
}

TEST_F(ReportTest, FilesOfOneModelBecomeOneEvaluation) {
  const fs::path a = write("a.json", make_eval("runs/x/checkpoints/step-9", {make_cell("t", 256, 10, 9), make_cell("t", 128, 10, 9)}));
  const fs::path b = write("b.json", make_eval("runs/x/checkpoints/step-9", {make_cell("u", 128, 10, 9)}));
  const ReportData one = read_inputs({a, b});
  ASSERT_EQ(one.evaluations.size(), 1u);
  EXPECT_EQ(one.evaluations[0].label, "x");
  EXPECT_EQ(one.evaluations[0].cells.size(), 3u);
  EXPECT_EQ(one.evaluations[0].cells[0].length, 128) << "sorted by length";
  const ReportData two = read_inputs({a, a});
  ASSERT_EQ(two.evaluations.size(), 2u);
  EXPECT_NE(two.evaluations[0].label, two.evaluations[1].label);
}

TEST_F(ReportTest, TheVerdictSaysWhatTheNumbersSay) {
  const auto words = [&](const json& e) { return verdict(read_inputs({write("v.json", e)})); };
  json e = make_eval("runs/tiny/latest", {with_floor(make_cell("single_needle", 128, 60, 60), 20, 20),
                                          with_floor(make_cell("single_needle", 131072, 60, 57), 20, 1)});
  EXPECT_EQ(words(e),
            "Trained on texts of 128 tokens, tiny answers single needle in texts of up to 128K tokens, 1,024 times that length: 95 % right "
            "(N = 60; with its memory off 5 %).");
  e["cells"].push_back(make_cell("single_needle", 1024, 60, 30));
  EXPECT_NE(words(e).find("95 % right, but 50 % at 1K ("), std::string::npos) << "a dip on the way is not hidden";
  e["cells"][1]["correct"] = 56, e["cells"][1]["accuracy"] = 56 / 60.0;  // 93 %: the length no longer counts
  EXPECT_NE(words(e).find("up to 128 tokens, its training length: 100 % right"), std::string::npos) << words(e);
  e["cells"] = {make_cell("single_needle", 128, 60, 20)};
  EXPECT_EQ(words(e),
            "Trained on texts of 128 tokens, tiny reaches 95 % at no length tested on single needle (at best 20 of 60, at 128 tokens).");
  e["cells"] = {make_cell("a", 256, 60, 60), make_cell("b", 256, 40, 39)};
  e["training_length"] = nullptr;
  EXPECT_EQ(words(e),
            "tiny answers a and b in texts of up to 256 tokens: 100 and 97.5 % right (N = 40 to 60; what it would answer with its memory "
            "off was not measured).");
  const report::Run run = read_run(write("runs/r/metrics.jsonl", make_step(7, 0.5).dump() + "\n").parent_path());
  EXPECT_NE(verdict(run).find("trained on 7k tokens in texts of up to 128; cross-entropy 0.25"), std::string::npos) << verdict(run);
}

TEST_F(ReportTest, WhatOtherRoomsWriteIsUnderstood) {
  json gate = {{"kind", "gate"}, {"step", 1}, {"tokens", 1000}, {"event", "passed"}, {"message", "gate 1 passed"}};
  const report::Run run =
      read_run(write("m.jsonl", make_step(1, 2).dump() + "\n" + gate.dump() + "\n{\"kind\":\"save\",\"checkpoint\":\"step-1\"}\n"));
  EXPECT_TRUE(std::isnan(run.steps[0].top_k)) << "\"all\" chunks";
  ASSERT_EQ(run.events.size(), 1u);
  EXPECT_EQ(run.events[0].text, "gate 1 passed");
  json cell = make_cell("t", 128, 10, 9);
  cell["floor_samples"] = 0, cell["floor_correct"] = 0, cell["floor_accuracy"] = nullptr;
  EXPECT_FALSE(read_evaluation(write("e.json", make_eval("m", {cell}))).cells[0].floor.has_value()) << "no floor was measured";
  EXPECT_FALSE(read_evaluation(folder_ / "e.json").cells[0].shared_window);
  cell["shared_window"] = true;
  EXPECT_TRUE(read_evaluation(write("e.json", make_eval("m", {cell}))).cells[0].shared_window);
}

TEST_F(ReportTest, NumbersAsWords) {
  EXPECT_EQ(percent(1), "100 %");
  EXPECT_EQ(percent(0), "0 %");
  EXPECT_EQ(percent(0.9996), ">99.9 %");
  EXPECT_EQ(percent(0.0004), "<0.1 %");
  EXPECT_EQ(percent(0.9667), "96.7 %");
  EXPECT_EQ(percent(kMissing), "-");
  EXPECT_EQ(thousands(8192), "8,192");
  EXPECT_EQ(thousands(-1234567), "-1,234,567");
  EXPECT_EQ(thousands(-123), "-123");
  EXPECT_EQ(format_value(3.7e6, Format::kCount), "3.7M");
  EXPECT_EQ(format_value(999999, Format::kCount), "1M");
  EXPECT_EQ(format_value(1.5e-4, Format::kNumber), "1.5e-4");
  EXPECT_EQ(format_value(0.003, Format::kNumber), "0.003");
  EXPECT_EQ(escape("a<b>&\"'\x01\xff\xc3\xa9\xed\xa0\x80"),
            "a&lt;b&gt;&amp;&quot;&#39;\xEF\xBF\xBD\xc3\xa9\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST_F(ReportTest, HeatColoursFallInLightness) {
  double before = 1e9;
  for (int i = 0; i <= 100; ++i) {
    const std::string color = heat_colors(i / 100.0).first;
    const int r = std::stoi(color.substr(1, 2), nullptr, 16), g = std::stoi(color.substr(3, 2), nullptr, 16),
              b = std::stoi(color.substr(5, 2), nullptr, 16);
    const double light = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    EXPECT_LE(light, before) << i;
    before = light;
  }
}

TEST_F(ReportTest, ThinningKeepsMeansExtremesAndGaps) {
  std::vector<std::pair<double, double>> values;
  for (int i = 0; i < 1000; ++i) values.emplace_back(i, i == 500 ? 100 : i >= 900 ? kMissing : 1);
  const std::vector<Point> points = thin_out(values, 10);
  ASSERT_EQ(points.size(), 10u);
  EXPECT_EQ(points[0].y, 1);
  EXPECT_EQ(points[5].high, 100);
  EXPECT_NEAR(points[5].y, 1.99, 1e-9);
  EXPECT_TRUE(std::isnan(points[9].y));
  EXPECT_EQ(points[9].x, 999);
}

}  // namespace
}  // namespace cairn::report
