#include "cairn/report/report.h"

#include "cairn/core/error.h"
#include "cairn/report/data.h"
#include "cairn/report/figures.h"
#include "cairn/report/page.h"
#include "cairn/report/summary.h"

namespace cairn {
namespace {

// An eval file named like the report would be lost under the report's own JSON.
void refuse_overwriting(const std::vector<fs::path>& inputs, const fs::path& output) {
  std::error_code error;
  for (const fs::path& input : inputs) {
    for (const fs::path& file : {input, input / "metrics.jsonl", input / "config.toml"}) {
      if (fs::equivalent(file, output, error)) {
        throw UserError("{} would be overwritten, but it is an input; choose another name with -o, for example {}", output.string(),
                        (output.parent_path() / (output.stem().string() + "-report.html")).string());
      }
    }
  }
  if (fs::is_directory(output, error)) throw UserError("{} is a folder; -o names a file", output.string());
}

}  // namespace

void write_report(const std::vector<fs::path>& inputs, const fs::path& output) {
  if (output.extension() != ".html" && output.extension() != ".htm") {
    throw UserError("{}: the report is an HTML file; give a name that ends in .html", output.string());
  }
  const auto beside = [&](const char* ending) { return fs::path(output).replace_extension(ending); };
  for (const fs::path& file : {output, beside(".json"), beside(".csv"), beside(".training.csv")}) refuse_overwriting(inputs, file);
  const report::ReportData data = report::read_inputs(inputs);
  const std::string html = report::page(data);
  write_file(beside(".json"), report::numbers_json(data));
  write_file(beside(".csv"), report::cells_csv(data));
  if (!data.runs.empty()) write_file(beside(".training.csv"), report::training_csv(data));
  write_file(output, html);
}

void write_pictures(const std::vector<fs::path>& inputs, const fs::path& accuracy, const fs::path& heatmap) {
  const report::ReportData data = report::read_inputs(inputs);
  if (data.evaluations.empty())
    throw UserError("pictures of accuracy need an evaluation among the inputs (a file that `cairn eval ... --json FILE` wrote)");
  for (const auto& [path, heat] : {std::pair(accuracy, false), std::pair(heatmap, true)}) {
    if (path.empty()) continue;
    if (path.extension() != ".svg") throw UserError("{}: pictures are SVG files; give a name that ends in .svg", path.string());
    refuse_overwriting(inputs, path);
    write_file(path, heat ? report::heatmap_picture(data.evaluations) : report::accuracy_picture(data.evaluations));
  }
}

std::string report_verdict(const std::vector<fs::path>& inputs) { return report::verdict(report::read_inputs(inputs)); }

}  // namespace cairn
