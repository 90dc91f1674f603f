// cairn report: evaluations and training runs as one HTML file with pictures.
#include "cairn/report/report.h"

#include <cstdio>
#include <memory>

#include "cairn/cli/commands.h"
#include "cairn/core/error.h"

namespace cairn {

void add_report(Command& app, Action* action) {
  struct Options {
    std::vector<std::string> inputs;
    std::string output, picture, heatmap;
  };
  auto options = std::make_shared<Options>();
  Command* command = app.add_subcommand("report", "Write one HTML file with pictures, and the numbers as CSV and JSON");
  command
      ->add_option("INPUT", options->inputs,
                   "run folders (metrics.jsonl, config.toml) and files of `cairn eval --json`; several are compared")
      ->required();
  command->add_option("-o,--output", options->output,
                      "the HTML file; .json and .csv are written beside it (report.html if no picture is asked for)");
  command->add_option("--picture", options->picture, "accuracy over length as an SVG file of its own, on white");
  command->add_option("--heatmap", options->heatmap, "the heat maps depth x length as an SVG file of its own, on white");
  command->callback([options, action] {
    *action = [options] {
      const std::vector<fs::path> inputs(options->inputs.begin(), options->inputs.end());
      const bool pictures = !options->picture.empty() || !options->heatmap.empty();
      if (options->output.empty() && !pictures) options->output = "report.html";
      std::string written;
      if (!options->output.empty()) {
        write_report(inputs, options->output);
        written += options->output + "\n";
      }
      if (pictures) write_pictures(inputs, options->picture, options->heatmap);
      for (const std::string& path : {options->picture, options->heatmap}) {
        if (!path.empty()) written += path + "\n";
      }
      std::fputs((report_verdict(inputs) + "\n" + written).c_str(), stdout);
      return 0;
    };
  });
}

}  // namespace cairn
