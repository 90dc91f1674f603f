// Losses over length and position on the page, in the files beside it, and in files that contradict themselves.
#include "cairn/report/data.h"
#include "cairn/report/report.h"
#include "report/synthetic.h"

namespace cairn::report {
namespace {

json make_perplexity(const std::string& model) {
  const auto length = [](int64_t n, double loss, double difference, const json& error) {
    return json{{"length", n},
                {"tokens", 8192},
                {"loss", loss},
                {"standard_error", .02},
                {"perplexity", 8},
                {"bits_per_byte", 1.25},
                {"difference", difference},
                {"difference_standard_error", error},
                {"difference_standard_error_windows", error}};
  };
  return {{"cairn", "0.2.0"},
          {"kind", "perplexity"},
          {"model", model},
          {"fingerprint", "f00d"},
          {"text", "books.shard"},
          {"training_length", 4096},
          {"windows", 8},
          {"targets", 1024},
          {"near", 4096},
          {"bytes", 30000},
          {"seconds", 12},
          {"tokens_per_second", 5000},
          {"environment", {{"cpu", "Some CPU"}}},
          {"config", {{"d_model", 64}}},
          {"command", "cairn perplexity " + model},
          {"lengths", {length(4096, 2.5, 0, 0.0), length(65536, 2.375, -.125, .03125)}},
          {"positions",
           {{{"position", 1024}, {"tokens", 8192}, {"loss", 2.75}, {"standard_error", .02}, {"bits_per_byte", 1.5}},
            {{"position", 65536}, {"tokens", 8192}, {"loss", 2.375}, {"standard_error", .02}, {"bits_per_byte", 1.2}}}}};
}

using Perplexities = ReportTest;

TEST_F(Perplexities, StandOnThePageAndInTheNumbers) {
  const fs::path file = write("p.json", make_perplexity("runs/a/latest")),
                 eval = write("e.json", make_eval("runs/a/latest", {make_cell("t", 128, 10, 10)}));
  const std::vector<std::vector<fs::path>> mixtures = {{file}, {file, eval}, {file, write("q.json", make_perplexity("runs/b/latest"))}};
  for (const std::vector<fs::path>& inputs : mixtures) {
    write_report(inputs, folder_ / "r.html");
    const std::string page = slurp(folder_ / "r.html");
    EXPECT_EQ(tag_errors(page), "");
    for (const char* text : {"Language modelling", "-0.12500 nats a token, 95 % interval -0.18625 to -0.06375", "loss 2.7500",
                             "books.shard", "cairn perplexity runs/a/latest", "1.2500 bits a byte"}) {
      EXPECT_NE(page.find(text), std::string::npos) << text;
    }
    const json numbers = json::parse(slurp(folder_ / "r.json"));
    EXPECT_EQ(numbers["perplexities"][0]["lengths"][1]["difference"], -.125);
    EXPECT_EQ(numbers["perplexities"][0]["positions"][0]["loss"], 2.75);
  }
  EXPECT_NE(report_verdict({file}).find("-0.1250 against the same tokens behind 4K (standard error 0.0312, 8 windows)"), std::string::npos)
      << report_verdict({file});
}

TEST_F(Perplexities, NothingMeasuredYetIsAPageToo) {
  json empty = make_perplexity("m");
  empty["windows"] = 0, empty["lengths"] = json::array(), empty["positions"] = json::array();
  write_report({write("p.json", empty)}, folder_ / "r.html");
  EXPECT_EQ(tag_errors(slurp(folder_ / "r.html")), "");
}

TEST_F(Perplexities, ContradictionsAreRefused) {
  const auto refused = [&](const std::string& what, const std::function<void(json&)>& spoil) {
    json bad = make_perplexity("m");
    spoil(bad);
    try {
      read_perplexity(write("bad.json", bad));
      FAIL() << "taken: " << what;
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("bad.json"), std::string::npos) << error.what();
    }
  };
  refused("\"lengths\" is missing", [](json& p) { p.erase("lengths"); });
  refused("not above the one before", [](json& p) { p["lengths"][1]["length"] = 4096; });
  refused("to itself is 0.5", [](json& p) { p["lengths"][0]["difference"] = .5; });
  refused("\"loss\" is missing", [](json& p) { p["positions"][0]["loss"] = nullptr; });
  refused("\"loss\" is -1", [](json& p) { p["positions"][0]["loss"] = -1; });
  refused("\"tokens\"", [](json& p) { p["lengths"][0]["tokens"] = 0; });
  refused("expected an object", [](json& p) { p["positions"][1] = 3; });
  refused("\"windows\"", [](json& p) { p["windows"] = -1; });
}

}  // namespace
}  // namespace cairn::report
