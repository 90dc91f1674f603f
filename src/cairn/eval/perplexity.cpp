#include "cairn/eval/perplexity.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/core/progress.h"
#include "cairn/eval/log_probs.h"
#include "cairn/eval/resources.h"

namespace cairn {
namespace {

using Json = nlohmann::ordered_json;

std::vector<int64_t> all_lengths(const PerplexityPlan& plan) {
  std::vector<int64_t> lengths = plan.lengths;
  lengths.push_back(plan.near);
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  return lengths;
}

int64_t batch_of(const Reader& reader, const PerplexityPlan& plan, int64_t longest) {
  return plan.batch > 0 ? std::min(plan.batch, plan.windows) : rows_that_fit(reader, plan.windows, longest + plan.targets);
}

struct Stopped {};

// Some windows, read together.
class Windows {
 public:
  Windows(const Reader& reader, const Tokenizer& tokenizer, const PerplexityPlan& plan, std::span<const int64_t> ends, Progress* progress,
          PerplexityResult* result)
      : reader_(reader), tokenizer_(tokenizer), plan_(plan), ends_(ends), progress_(progress), result_(result) {}

  void measure() {
    const int64_t T = plan_.targets, longest = result_->lengths.back().length;
    std::vector<at::Tensor> losses;  // [rows,T] a length
    for (const LengthLoss& at_length : result_->lengths) {
      const int64_t length = at_length.length;
      const auto state = reader_.new_reader_state(rows());
      if (length == longest) {
        for (PositionLoss& at_position : result_->positions) {
          if (at_position.position == longest) break;
          read(*state, at_position.position - 1, length);
          add(losses_of(*state->fork(), length), bytes_at(length, at_position.position), &at_position);
          result_->tokens_read += rows() * T;
        }
      }
      read(*state, length - 1, length);
      losses.push_back(losses_of(*state, length));
      result_->tokens_read += rows() * T;
    }
    const int64_t bytes = bytes_at(longest, longest);
    add(losses.back(), bytes, &result_->positions.back());
    result_->bytes += bytes;
    size_t near = 0;
    while (result_->lengths[near].length != plan_.near) ++near;
    for (size_t i = 0; i < losses.size(); ++i) {
      LengthLoss& to = result_->lengths[i];
      for (int64_t row = 0; row < rows(); ++row) {
        Mean window;
        for (int64_t t = 0; t < T; ++t) {
          const double loss = losses[i].data_ptr<float>()[row * T + t];
          to.loss.add(loss);
          window.add(loss - static_cast<double>(losses[near].data_ptr<float>()[row * T + t]));
          to.difference.add(loss - static_cast<double>(losses[near].data_ptr<float>()[row * T + t]));
        }
        to.window_differences.add(window.mean);
      }
    }
    result_->windows += rows();
  }

 private:
  int64_t rows() const { return std::ssize(ends_); }

  // Tokens begin .. of the context of `length` tokens with its targets, of one row.
  void text(int64_t row, int64_t length, int64_t begin, std::span<int32_t> out) const {
    plan_.text->read(ends_[row] - plan_.targets - length + begin, out);
  }

  void read(ReaderState& state, int64_t until, int64_t length) {
    bool stopped = false;
    const int64_t before = result_->tokens_read, start = state.position();
    reader_.read(
        state, until - start, [&](int64_t row, int64_t begin, std::span<int32_t> out) { text(row, length, begin, out); },
        [&](int64_t done) {
          result_->tokens_read = before + rows() * done;
          progress_->update(result_->tokens_read);
          return !(stopped = stop_requested());
        });
    if (stopped) throw Stopped{};
  }

  // fp32 [rows,T]: of the T tokens behind the first position + 1 ones.
  at::Tensor losses_of(ReaderState& state, int64_t length) const {
    const int64_t n = plan_.targets + 1;
    const at::Tensor ids = at::empty({rows(), n}, at::kInt);
    for (int64_t row = 0; row < rows(); ++row) {
      text(row, length, state.position(), {ids.data_ptr<int32_t>() + row * n, static_cast<size_t>(n)});
    }
    return next_token_log_probs(reader_, state, ids.to(reader_.device(), at::kLong)).neg().contiguous();
  }

  int64_t bytes_at(int64_t length, int64_t position) const {
    int64_t bytes = 0;
    std::vector<int32_t> ids(plan_.targets);
    for (int64_t row = 0; row < rows(); ++row) {
      text(row, length, position, ids);
      bytes += std::ssize(tokenizer_.decode(ids));
    }
    return bytes;
  }

  void add(const at::Tensor& losses, int64_t bytes, PositionLoss* to) const {
    for (int64_t i = 0; i < losses.numel(); ++i) to->loss.add(losses.data_ptr<float>()[i]);
    to->bytes += bytes;
  }

  const Reader& reader_;
  const Tokenizer& tokenizer_;
  const PerplexityPlan& plan_;
  std::span<const int64_t> ends_;
  Progress* progress_;
  PerplexityResult* result_;
};

Json known(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

}  // namespace

std::vector<int64_t> window_ends(const PerplexityPlan& plan) {
  const int64_t longest = all_lengths(plan).back(), one = longest + plan.targets, size = plan.text->size();
  std::vector<int64_t> ends;
  if (size == TokenSource::kUnlimited) {  // text that never repeats, one window behind the other
    for (int64_t w = 0; w < plan.windows; ++w) ends.push_back((w + 1) * one);
    return ends;
  }
  if (size < one) {
    throw UserError("{} has {} tokens; a context of {} with {} targets needs {}: give more text or shorter lengths", plan.text->name(),
                    size, format_length(longest), plan.targets, one);
  }
  const int64_t room = (size - one) / plan.targets + 1;
  if (plan.windows > room) {
    throw UserError("{} has {} tokens: behind {} there is room for {} windows of {} targets, not for {}; use --windows {}",
                    plan.text->name(), size, format_length(longest), room, plan.targets, plan.windows, room);
  }
  for (int64_t w = 0; w < plan.windows; ++w) {
    ends.push_back(plan.windows == 1 ? size : one + (size - one) / (plan.windows - 1) * w);
  }
  return ends;
}

PerplexityResult measure_perplexity(const Reader& reader, const Tokenizer& tokenizer, const PerplexityPlan& plan,
                                    const std::function<void(const PerplexityResult&)>& on_result) {
  const at::NoGradGuard no_gradient;
  if (plan.targets < 1 || plan.windows < 1) throw UserError("--targets and --windows must be 1 or more");
  const std::vector<int64_t> lengths = all_lengths(plan);
  if (lengths.front() < 1) throw UserError("lengths must be 1 token or more, not {}", lengths.front());
  const std::vector<int64_t> ends = window_ends(plan);
  const int64_t longest = lengths.back(), batch = batch_of(reader, plan, longest);
  require_memory(reader, batch, longest + plan.targets);

  PerplexityResult result;
  result.targets = plan.targets;
  result.near = plan.near;
  int64_t total = 0;
  for (const int64_t length : lengths) {
    result.lengths.push_back({length, {}, {}, {}});
    total += plan.windows * (length + plan.targets);
  }
  for (int64_t p = 1; p < longest; p *= 2) {
    if (p >= plan.targets) result.positions.push_back({p, 0, {}}), total += plan.windows * plan.targets;
  }
  result.positions.push_back({longest, 0, {}});
  Progress progress("perplexity", total, "tokens");
  for (int64_t first = 0; first < plan.windows; first += batch) {
    PerplexityResult next = result;
    Stopwatch watch(reader.device());
    try {
      Windows(reader, tokenizer, plan, std::span(ends).subspan(first, std::min(batch, plan.windows - first)), &progress, &next).measure();
    } catch (const Stopped&) {
      break;
    }
    next.seconds += watch.lap();
    result = std::move(next);
    if (on_result) on_result(result);
    if (stop_requested()) break;
  }
  progress.finish(fmt::format("{} of {} windows", result.windows, plan.windows));
  return result;
}

double bits_per_byte(const Mean& loss, int64_t bytes) {
  if (bytes == 0) return std::numeric_limits<double>::quiet_NaN();
  return loss.mean * static_cast<double>(loss.n) / std::log(2.0) / static_cast<double>(bytes);
}

std::string perplexity_json(const EvalHeader& header, const ModelConfig& config, const PerplexityResult& result) {
  Json json = header_json(header, config, "perplexity");
  json["text"] = header.haystack;
  json["windows"] = result.windows;
  json["targets"] = result.targets;
  json["near"] = result.near;
  json["bytes"] = result.bytes;
  json["seconds"] = result.seconds;
  json["tokens_per_second"] = result.seconds > 0 ? static_cast<double>(result.tokens_read) / result.seconds : 0;
  json["lengths"] = Json::array();
  json["positions"] = Json::array();
  if (result.windows == 0) return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
  for (const LengthLoss& l : result.lengths) {
    json["lengths"].push_back({{"length", l.length},
                               {"tokens", l.loss.n},
                               {"loss", l.loss.mean},
                               {"standard_error", known(l.loss.standard_error())},
                               {"perplexity", known(std::exp(l.loss.mean))},
                               {"bits_per_byte", known(bits_per_byte(l.loss, result.bytes))},
                               {"difference", l.difference.mean},
                               {"difference_standard_error", known(l.difference.standard_error())},
                               {"difference_standard_error_windows", known(l.window_differences.standard_error())}});
  }
  for (const PositionLoss& p : result.positions) {
    json["positions"].push_back({{"position", p.position},
                                 {"tokens", p.loss.n},
                                 {"loss", p.loss.mean},
                                 {"standard_error", known(p.loss.standard_error())},
                                 {"bits_per_byte", known(bits_per_byte(p.loss, p.bytes))}});
  }
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string perplexity_table(const PerplexityResult& result) {
  std::string out = fmt::format("{:>8} {:>10} {:>10} {:>11} {:>10} {:>24} {:>22}\n", "context", "tokens", "loss", "perplexity", "bits/byte",
                                fmt::format("difference to {}", format_length(result.near)), "s.e. tokens / windows");
  for (const LengthLoss& l : result.lengths) {
    out += fmt::format("{:>8} {:>10} {:>10.4f} {:>11.3f} {:>10.4f} {:>+24.5f} {:>22}\n", format_length(l.length), l.loss.n, l.loss.mean,
                       std::exp(l.loss.mean), bits_per_byte(l.loss, result.bytes), l.difference.mean,
                       fmt::format("{:.5f} / {:.5f}", l.difference.standard_error(), l.window_differences.standard_error()));
  }
  out += fmt::format("\n{:>8} {:>10} {:>10} {:>11} {:>10}\n", "behind", "tokens", "loss", "s.e.", "bits/byte");
  for (const PositionLoss& p : result.positions) {
    out += fmt::format("{:>8} {:>10} {:>10.4f} {:>11.4f} {:>10.4f}\n", format_length(p.position), p.loss.n, p.loss.mean,
                       p.loss.standard_error(), bits_per_byte(p.loss, p.bytes));
  }
  return out;
}

}  // namespace cairn
