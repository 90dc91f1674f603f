// cairn inspect: the answers of `cairn ask` as one HTML file that shows which chunks of the text every token read.
#include <fmt/format.h>

#include <memory>
#include <string>

#include "cairn/cli/commands.h"
#include "cairn/report/inspector.h"

namespace cairn {

void add_inspect(Command& app, Action* action) {
  struct Options {
    std::string answers, output;
  };
  auto options = std::make_shared<Options>();
  Command* command = app.add_subcommand("inspect", "Write one HTML file that shows what every token of an answer has read");
  command->add_option("ANSWERS", options->answers, "the JSON file that `cairn ask` wrote")->required();
  command->add_option("-o,--output", options->output, "the HTML file (default: the name of the answers, ending in .html)");
  command->callback([options, action] {
    *action = [options] {
      const fs::path html = options->output.empty() ? fs::path(options->answers).replace_extension(".html") : fs::path(options->output);
      write_inspector(options->answers, html);
      fmt::print("{}\n", html.string());
      return 0;
    };
  });
}

}  // namespace cairn
