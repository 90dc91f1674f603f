// Reads one file of `cairn perplexity --json`.
#include <cmath>
#include <set>

#include "cairn/core/error.h"
#include "cairn/report/fields.h"

namespace cairn::report {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 50;
constexpr size_t kMaxPoints = 4096;

const Json& list_of(const Fields& fields, const char* name) {
  const Json& list = fields.at(name);
  if (!list.is_array() || list.size() > kMaxPoints)
    throw UserError("{}: \"{}\" must be a list of at most {}", fields.where(), name, kMaxPoints);
  return list;
}

// One entry of "lengths" (key "length") or "positions" (key "position"); they stand in ascending order.
LossPoint read_point(const Json& json, const std::string& where, const char* key, int64_t above) {
  const Fields fields(json, where);
  LossPoint p;
  p.tokens_before = fields.integer(key, 1, kMaxCount);
  if (p.tokens_before <= above) throw UserError("{}: \"{}\" is {}, not above the one before, {}", where, key, p.tokens_before, above);
  p.tokens = fields.integer("tokens", 1, kMaxCount);
  p.loss = fields.number_in("loss", 0, 1e6);
  if (std::isnan(p.loss)) throw UserError("{}: the field \"loss\" is missing", where);
  p.standard_error = fields.number_in("standard_error", 0, 1e6);
  p.bits_per_byte = fields.number_in("bits_per_byte", 0, 1e6);
  p.difference = fields.number_in("difference", -1e6, 1e6);
  p.difference_error = fields.number_in("difference_standard_error", 0, 1e6);
  p.difference_error_windows = fields.number_in("difference_standard_error_windows", 0, 1e6);
  return p;
}

}  // namespace

bool is_perplexity(const fs::path& path) {
  Json json;
  std::string reason;
  if (!try_parse_json(read_file(path, int64_t{256} << 20), &json, &reason) || !json.is_object()) return false;
  const auto kind = json.find("kind");
  return kind != json.end() && kind->is_string() && kind->get<std::string>() == "perplexity";
}

Perplexity read_perplexity(const fs::path& path) {
  const std::string file = path.string();
  const Json json = parse_json(read_file(path, int64_t{256} << 20), file);
  const Fields fields(json, file);
  Perplexity p;
  p.source = file;
  p.version = fields.text("cairn");
  p.model = fields.text("model");
  p.fingerprint = fields.text("fingerprint");
  p.created = fields.text("created");
  p.command = fields.text("command");
  p.text = fields.text("text");
  if (fields.has("training_length")) p.training_length = fields.integer("training_length", 1, kMaxCount);
  if (fields.has("environment")) p.environment = flatten(Fields(fields.at("environment"), file + ": \"environment\"").object());
  if (fields.has("config")) p.config = flatten(Fields(fields.at("config"), file + ": \"config\"").object());
  p.windows = fields.integer("windows", 0, kMaxCount);
  p.targets = fields.integer("targets", 0, kMaxCount);
  p.near = fields.integer("near", 0, kMaxCount);
  p.seconds = fields.number_in("seconds", 0, 1e12);
  p.tokens_per_second = fields.number_in("tokens_per_second", 0, 1e15);
  for (const Json& item : list_of(fields, "lengths")) {
    const std::string where = fmt::format("{}: length {}", file, p.lengths.size() + 1);
    p.lengths.push_back(read_point(item, where, "length", p.lengths.empty() ? 0 : p.lengths.back().tokens_before));
    const LossPoint& point = p.lengths.back();
    if (point.tokens_before == p.near && point.difference != 0) {
      throw UserError("{}: the difference of the near context to itself is {}, not 0", where, point.difference);
    }
  }
  for (const Json& item : list_of(fields, "positions")) {
    const std::string where = fmt::format("{}: position {}", file, p.positions.size() + 1);
    p.positions.push_back(read_point(item, where, "position", p.positions.empty() ? 0 : p.positions.back().tokens_before));
  }
  return p;
}

}  // namespace cairn::report
