#include <cmath>
#include <set>

#include "cairn/report/chart.h"
#include "cairn/report/fields.h"
#include "cairn/report/summary.h"

namespace cairn::report {
namespace {

// RFC 4180: quoted when needed, quotes doubled.
std::string csv_text(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

std::string csv_number(double value) { return std::isfinite(value) ? fmt::format("{:.10g}", value) : std::string(); }

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json numbers(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double value : values) list.push_back(number(value));
  return list;
}

Json object(const Pairs& pairs) {
  Json json = Json::object();
  for (const auto& [name, value] : pairs) json[name] = value;
  return json;
}

void add_score(const std::string& prefix, const Score* score, Json* json) {
  const bool there = score && score->samples > 0;
  (*json)[prefix + "samples"] = score ? Json(score->samples) : Json(nullptr);
  (*json)[prefix + "correct"] = score ? Json(score->correct) : Json(nullptr);
  (*json)[prefix + "accuracy"] = there ? number(score->accuracy) : Json(nullptr);
  (*json)[prefix + "wilson_low"] = there ? number(score->interval.low) : Json(nullptr);
  (*json)[prefix + "wilson_high"] = there ? number(score->interval.high) : Json(nullptr);
}

Json mean_json(const MeanValue& value) {
  return {{"mean", number(value.mean)}, {"standard_error", number(value.standard_error)}, {"count", value.count}};
}

Json diagnosis_json(const Cell& cell) {
  if (!cell.diagnosis) return nullptr;
  Json list = Json::array();
  for (const RetrievalDetail& d : cell.diagnosis->retrievals) {
    list.push_back({{"rows", d.rows},
                    {"rank_median", number(d.rank_median)},
                    {"rank_90", number(d.rank_90)},
                    {"recall_at_1", number(d.recall_at_1)},
                    {"kl", mean_json(d.kl)},
                    {"spearman", mean_json(d.spearman)}});
  }
  return {
      {"retrievals", list}, {"source_drop", mean_json(cell.diagnosis->source_drop)}, {"other_drop", mean_json(cell.diagnosis->other_drop)}};
}

Json cell_json(const Cell& cell) {
  Json json = {{"task", cell.task}, {"length", cell.length}};
  add_score("", &cell.forced, &json);
  add_score("generated_", cell.generated ? &*cell.generated : nullptr, &json);
  add_score("floor_", cell.floor ? &*cell.floor : nullptr, &json);
  json["token_accuracy"] = number(cell.token_accuracy);
  json["chance"] = number(cell.chance);
  json["recall"] = numbers(cell.recall);
  json["seconds"] = number(cell.seconds);
  json["tokens_per_second"] = number(cell.tokens_per_second);
  json["seconds_reading"] = number(cell.seconds_reading);
  json["seconds_edits"] = number(cell.seconds_edits);
  json["seconds_asking"] = number(cell.seconds_asking);
  json["seconds_generating"] = number(cell.seconds_generating);
  json["decode_milliseconds"] = number(cell.decode_milliseconds);
  json["state_bytes"] = number(cell.state_bytes);
  json["device_peak_bytes"] = number(cell.device_peak_bytes);
  json["device_current_bytes"] = number(cell.device_current_bytes);
  json["shared_window"] = cell.shared_window;
  if (cell.failures) {
    const auto& f = *cell.failures;
    json["failures"] = {{"not_found", f[0]}, {"not_used", f[1]}, {"misread", f[2]}, {"no_source", f[3]}};
  } else {
    json["failures"] = nullptr;
  }
  json["diagnosis"] = diagnosis_json(cell);
  json["depths"] = Json::array();
  for (const DepthBin& bin : cell.depths) {
    json["depths"].push_back({{"low", bin.low}, {"high", bin.high}, {"samples", bin.samples}, {"correct", bin.correct}});
  }
  return json;
}

Json points_json(const std::vector<LossPoint>& points, const char* name, bool differences) {
  Json list = Json::array();
  for (const LossPoint& p : points) {
    Json item = {{name, p.tokens_before},
                 {"tokens", p.tokens},
                 {"loss", number(p.loss)},
                 {"standard_error", number(p.standard_error)},
                 {"bits_per_byte", number(p.bits_per_byte)}};
    if (differences) {
      item["difference"] = number(p.difference);
      item["difference_standard_error"] = number(p.difference_error);
      item["difference_standard_error_windows"] = number(p.difference_error_windows);
    }
    list.push_back(std::move(item));
  }
  return list;
}

Json perplexity_json(const Perplexity& p) {
  Json json = {{"label", p.label},     {"model", p.model},      {"fingerprint", p.fingerprint},
               {"source", p.source},   {"created", p.created},  {"command", p.command},
               {"text", p.text},       {"verdict", verdict(p)}, {"windows", p.windows},
               {"targets", p.targets}, {"near", p.near},        {"seconds", number(p.seconds)}};
  json["training_length"] = p.training_length ? Json(*p.training_length) : Json(nullptr);
  json["tokens_per_second"] = number(p.tokens_per_second);
  json["lengths"] = points_json(p.lengths, "length", true);
  json["positions"] = points_json(p.positions, "position", false);
  json["environment"] = object(p.environment);
  json["config"] = object(p.config);
  return json;
}

Json run_json(const Run& run) {
  Json json = {{"label", run.label}, {"source", run.source}, {"verdict", verdict(run)}, {"notes", run.notes}, {"steps", run.steps.size()}};
  Json curves = Json::object();
  const auto add = [&](const std::string& name, auto value) {
    std::vector<std::pair<double, double>> values;
    for (const Step& step : run.steps) values.emplace_back(step.tokens, value(step));
    std::vector<double> x, y;
    bool any = false;
    for (const Point& p : thin_out(values, 200)) {
      x.push_back(p.x);
      y.push_back(p.y);
      any |= std::isfinite(p.y);
    }
    if (any) curves[name] = {{"tokens", numbers(x)}, {"mean", numbers(y)}};
  };
  add("loss", [](const Step& s) { return s.loss; });
  add("cross_entropy", [](const Step& s) { return s.cross_entropy; });
  add("lr", [](const Step& s) { return s.lr; });
  add("tokens_per_second", [](const Step& s) { return s.tokens_per_second; });
  for (const std::string& task : run.tasks()) {
    add("skill." + task, [&](const Step& s) {
      const auto it = s.skill.find(task);
      return it == s.skill.end() ? kMissing : it->second;
    });
  }
  json["curves"] = std::move(curves);
  json["events"] = Json::array();
  for (const Event& e : run.events)
    json["events"].push_back({{"kind", e.kind}, {"step", e.step}, {"tokens", number(e.tokens)}, {"text", e.text}});
  json["environment"] = object(run.environment);
  json["config"] = object(run.config);
  return json;
}

}  // namespace

std::string cells_csv(const ReportData& data) {
  size_t retrievals = 0;
  for (const Evaluation& e : data.evaluations) {
    for (const Cell& cell : e.cells) retrievals = std::max(retrievals, cell.recall.size());
  }
  std::string out =
      "model,fingerprint,haystack,seed,training_length,task,length,samples,correct,accuracy,wilson_low,wilson_high,generated_correct,"
      "generated_accuracy,generated_wilson_low,generated_wilson_high,token_accuracy,floor_samples,floor_correct,floor_accuracy,chance,"
      "seconds,"
      "tokens_per_second,shared_window,failed_not_found,failed_not_used,failed_misread,failed_no_source,seconds_reading,"
      "seconds_edits,seconds_asking,seconds_generating,decode_milliseconds,state_bytes,device_peak_bytes,device_current_bytes";
  for (size_t r = 0; r < retrievals; ++r) out += fmt::format(",recall_{}", r + 1);
  for (int d = 0; d < kDepthBins; ++d) out += fmt::format(",depth_{0}_samples,depth_{0}_correct", d * 10);
  out += "\r\n";
  for (const Evaluation& e : data.evaluations) {
    for (const Cell& c : e.cells) {
      const bool any = c.forced.samples > 0;
      out += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{}", csv_text(e.label), csv_text(e.fingerprint), csv_text(e.haystack),
                         csv_text(e.seed), e.training_length ? std::to_string(*e.training_length) : "", csv_text(c.task), c.length,
                         c.forced.samples, c.forced.correct, csv_number(c.forced.accuracy), any ? csv_number(c.forced.interval.low) : "",
                         any ? csv_number(c.forced.interval.high) : "");
      if (c.generated && c.generated->samples > 0) {
        out += fmt::format(",{},{},{},{}", c.generated->correct, csv_number(c.generated->accuracy), csv_number(c.generated->interval.low),
                           csv_number(c.generated->interval.high));
      } else {
        out += ",,,,";
      }
      out += "," + csv_number(c.token_accuracy);
      out += c.floor ? fmt::format(",{},{},{}", c.floor->samples, c.floor->correct, csv_number(c.floor->accuracy)) : ",,,";
      out += fmt::format(",{},{},{},{}", csv_number(c.chance), csv_number(c.seconds), csv_number(c.tokens_per_second),
                         c.shared_window ? 1 : 0);
      for (size_t f = 0; f < kFailureClasses; ++f) out += c.failures ? fmt::format(",{}", (*c.failures)[f]) : ",";
      for (const double v : {c.seconds_reading, c.seconds_edits, c.seconds_asking, c.seconds_generating, c.decode_milliseconds,
                             c.state_bytes, c.device_peak_bytes, c.device_current_bytes}) {
        out += "," + csv_number(v);
      }
      for (size_t r = 0; r < retrievals; ++r) out += "," + (r < c.recall.size() ? csv_number(c.recall[r]) : std::string());
      for (size_t d = 0; d < kDepthBins; ++d)
        out += d < c.depths.size() ? fmt::format(",{},{}", c.depths[d].samples, c.depths[d].correct) : ",,";
      out += "\r\n";
    }
  }
  return out;
}

std::string training_csv(const ReportData& data) {
  std::set<std::string> tasks;
  size_t retrievals = 0;
  for (const Run& run : data.runs) {
    for (const std::string& task : run.tasks()) tasks.insert(task);
    for (const Step& s : run.steps) retrievals = std::max(retrievals, s.recall.size());
  }
  std::string out = "run,step,tokens,seconds,loss,cross_entropy,route,distillation,lr,alpha,beta,length,top_k,grad_norm,tokens_per_second";
  for (const std::string& task : tasks) out += "," + csv_text("skill_" + task);
  for (size_t r = 0; r < retrievals; ++r) out += fmt::format(",recall_{0}_chosen,recall_{0}_first", r + 1);
  out += "\r\n";
  for (const Run& run : data.runs) {
    for (const Step& s : run.steps) {
      out += fmt::format("{},{}", csv_text(run.label), s.step);
      for (const double v : {s.tokens, s.seconds, s.loss, s.cross_entropy, s.route, s.distillation, s.lr, s.alpha, s.beta, s.length,
                             s.top_k, s.grad_norm, s.tokens_per_second}) {
        out += "," + csv_number(v);
      }
      for (const std::string& task : tasks) {
        const auto it = s.skill.find(task);
        out += "," + (it == s.skill.end() ? std::string() : csv_number(it->second));
      }
      for (size_t r = 0; r < retrievals; ++r) {
        out += "," + (r < s.recall.size() ? csv_number(s.recall[r]) : std::string()) + "," +
               (r < s.recall_top1.size() ? csv_number(s.recall_top1[r]) : std::string());
      }
      out += "\r\n";
    }
  }
  return out;
}

std::string numbers_json(const ReportData& data) {
  Json json = {{"cairn", CAIRN_VERSION}, {"kind", "report"}, {"verdict", verdict(data)}};
  json["evaluations"] = Json::array();
  for (const Evaluation& e : data.evaluations) {
    Json item = {{"label", e.label},       {"model", e.model},     {"fingerprint", e.fingerprint},
                 {"sources", e.sources},   {"created", e.created}, {"commands", e.commands},
                 {"haystack", e.haystack}, {"seed", e.seed},       {"verdict", verdict(e)}};
    item["training_length"] = e.training_length ? Json(*e.training_length) : Json(nullptr);
    item["environment"] = object(e.environment);
    item["config"] = object(e.config);
    item["cells"] = Json::array();
    for (const Cell& cell : e.cells) item["cells"].push_back(cell_json(cell));
    json["evaluations"].push_back(std::move(item));
  }
  json["perplexities"] = Json::array();
  for (const Perplexity& p : data.perplexities) json["perplexities"].push_back(perplexity_json(p));
  json["runs"] = Json::array();
  for (const Run& run : data.runs) json["runs"].push_back(run_json(run));
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace cairn::report
