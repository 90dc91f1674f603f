// Small inputs of a report, made in a temporary folder, and a checker of tags.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cairn/core/error.h"
#include "cairn/core/files.h"

namespace cairn::report {

using nlohmann::json;

class ReportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::temp_directory_path() / fmt::format("cairn_report_{}_{}", ::getpid(), info->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path write(const std::string& name, const std::string& text) {
    const fs::path path = folder_ / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  fs::path write(const std::string& name, const json& value) { return write(name, value.dump()); }
  static std::string slurp(const fs::path& path) { return read_file(path); }

  fs::path folder_;
};

inline json make_cell(const std::string& task, int64_t length, int64_t samples, int64_t correct) {
  json cell = {{"task", task}, {"length", length}, {"samples", samples}, {"correct", correct}};
  cell["accuracy"] = samples == 0 ? json(nullptr) : json(static_cast<double>(correct) / static_cast<double>(samples));
  cell["chance"] = 0.0078125;
  cell["recall"] = {0.75, nullptr};
  cell["seconds"] = 12.5;
  cell["tokens_per_second"] = 43210.0;
  cell["depths"] = json::array();
  int64_t left = samples, right = correct;
  for (int d = 0; d < 10; ++d) {
    const int64_t n = d == 9 ? 0 : std::min(left, (samples + 8) / 9), k = std::min(n, right);
    cell["depths"].push_back({{"low", d / 10.0}, {"high", (d + 1) / 10.0}, {"samples", n}, {"correct", k}});
    left -= n;
    right -= k;
  }
  return cell;
}

inline json with_failures(json cell, int64_t not_found, int64_t not_used, int64_t misread, int64_t no_source) {
  cell["failures"] = {{"not_found", not_found}, {"not_used", not_used}, {"misread", misread}, {"no_source", no_source}};
  return cell;
}

inline json with_floor(json cell, int64_t samples, int64_t correct) {
  cell["floor_samples"] = samples;
  cell["floor_correct"] = correct;
  cell["floor_accuracy"] = static_cast<double>(correct) / static_cast<double>(samples);
  return cell;
}

inline json make_eval(const std::string& model, const std::vector<json>& cells) {
  return {{"cairn", "0.1.0"},
          {"kind", "eval"},
          {"model", model},
          {"fingerprint", "f00d"},
          {"created", "2026-01-02T03:04:05Z"},
          {"environment", {{"cpu", "Some CPU"}, {"cores", 2}}},
          {"config", {{"d_model", 64}, {"upper", {"memory", "window"}}}},
          {"training_length", 128},
          {"haystack", "books"},
          {"seed", 1},
          {"command", "cairn eval " + model},
          {"cells", cells}};
}

inline json make_step(int64_t step, double loss) {
  return {{"kind", "step"},
          {"step", step},
          {"tokens", step * 1000},
          {"seconds", step * 0.5},
          {"loss", loss},
          {"cross_entropy", loss / 2},
          {"route", 0.25},
          {"distillation", 0},
          {"lr", 0.001},
          {"alpha", 0.5},
          {"beta", 1},
          {"length", 128},
          {"top_k", "all"},
          {"grad_norm", 0.5},
          {"tokens_per_second", 2000},
          {"skill", {{"single_needle", 0.5}}},
          {"loss_by_task", {{"text", loss}}},
          {"recall", {{0.5, 0.25}}}};
}

// Empty if every tag of an HTML or SVG document is closed in order and every id is used once; otherwise what is wrong. The page is written
// as XML would have it, so no element is left to the parser's mercy. Raw text (script, style) is skipped.
inline std::string tag_errors(const std::string& text) {
  std::vector<std::string> open, ids;
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '>') return "a bare > at " + std::to_string(i);
    if (text[i] != '<') {
      ++i;
      continue;
    }
    if (text.compare(i, 9, "<!DOCTYPE") == 0) {
      i = text.find('>', i) + 1;
      continue;
    }
    size_t j = i + 1;
    const bool closing = text[j] == '/';
    if (closing) ++j;
    std::string name;
    while (j < text.size() && (std::isalnum(static_cast<unsigned char>(text[j])) != 0)) name += text[j++];
    if (name.empty()) return "a bare < at " + std::to_string(i);
    char quote = 0;
    std::string attributes;
    for (; j < text.size() && (quote != 0 || text[j] != '>'); ++j) {
      if (quote == 0 && text[j] == '"')
        quote = '"';
      else if (quote == text[j])
        quote = 0;
      if (quote != 0 && text[j] == '<') return "a < inside an attribute of " + name;
      attributes += text[j];
    }
    if (j >= text.size()) return "tag " + name + " never ends";
    if (const size_t at = attributes.find(" id=\""); at != std::string::npos) {
      const std::string id = attributes.substr(at + 5, attributes.find('"', at + 5) - at - 5);
      if (std::find(ids.begin(), ids.end(), id) != ids.end()) return "id " + id + " twice";
      ids.push_back(id);
    }
    i = j + 1;
    if (closing) {
      if (open.empty() || open.back() != name) return "</" + name + "> closes " + (open.empty() ? "nothing" : open.back());
      open.pop_back();
    } else if (attributes.empty() || attributes.back() != '/') {
      open.push_back(name);
      if (name == "script" || name == "style") i = text.find("</" + name + ">", i);
    }
  }
  return open.empty() ? "" : open.back() + " is never closed";
}

}  // namespace cairn::report
