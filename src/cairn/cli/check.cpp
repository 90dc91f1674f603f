#include <fmt/format.h>

#include <memory>
#include <string>

#include "cairn/cli/commands.h"
#include "cairn/core/error.h"
#include "cairn/model/oracle.h"
#include "cairn/ops/check_ops.h"

namespace cairn {
namespace {

struct CheckOptions {
  std::string oracle;
  std::string device = "cpu";
  uint64_t seed = 1;
  int64_t rounds = 3;
};

int check_oracle(const std::string& folder) {
  int disagree = 0;
  const std::vector<OracleResult> results = run_oracle(folder);
  fmt::print("{:<28} {:>9} {:<34} {:>9} {}\n", "case", "outputs", "worst output", "gradients", "worst gradient");
  for (const OracleResult& r : results) {
    disagree += !r.agrees();
    if (!r.failure.empty()) {
      fmt::print("{:<28} FAILED: {}\n", r.name, r.failure);
      continue;
    }
    fmt::print("{:<28} {:>9.3f} {:<34} {:>9.3f} {}{}\n", r.name, r.output_error, r.worst_output, r.gradient_error, r.worst_gradient,
               r.agrees() ? "" : "   DISAGREES");
  }
  fmt::print("errors are in units of the tolerance (outputs 2e-5 + 1e-4 |b|, gradients 1e-4 + 1e-3 |b|)\n{} of {} cases agree\n",
             results.size() - static_cast<size_t>(disagree), results.size());
  return disagree == 0 ? 0 : 1;
}

int check_all_operators(const CheckOptions& options) {
  const std::vector<OperatorCheck> results = check_operators(at::Device(options.device), options.seed, options.rounds);
  int wrong = 0;
  fmt::print("{:<22} {:<5} {:<38} {:>10} {:>10} {}\n", "operator", "dtype", "shape", "error", "allowed", "worst");
  for (const OperatorCheck& r : results) {
    wrong += !r.ok();
    if (!r.failure.empty()) {
      fmt::print("{:<22} {:<5} {:<38} FAILED: {}\n", r.name, r.dtype, r.shape, r.failure);
    } else {
      fmt::print("{:<22} {:<5} {:<38} {:>10.2e} {:>10.2e} {}{}\n", r.name, r.dtype, r.shape, r.error, r.allowed, r.worst,
                 r.ok() ? "" : "   WRONG");
    }
  }
  fmt::print("{} of {} checks agree on {}\n", results.size() - static_cast<size_t>(wrong), results.size(), options.device);
  return wrong == 0 ? 0 : 1;
}

}  // namespace

void add_check(Command& app, Action* action) {
  Command* command = app.add_subcommand("check", "Compare every operator with its reference, or the model with an independent oracle");
  auto options = std::make_shared<CheckOptions>();
  command->add_option("--oracle", options->oracle,
                      "folder of oracle cases (*.safetensors): compare outputs and gradients of every case, fp32");
  command->add_option("--device", options->device, "cpu or cuda")->one_of({"cpu", "cuda"});
  command->add_option("--seed", options->seed, "seed of the random inputs");
  command->add_option("--rounds", options->rounds, "random shapes an operator")->range(1, 10000);
  command->callback(
      [=] { *action = [=] { return options->oracle.empty() ? check_all_operators(*options) : check_oracle(options->oracle); }; });
}

}  // namespace cairn
