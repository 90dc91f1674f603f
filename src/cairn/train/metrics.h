// A run's written memory: metrics.jsonl (one JSON object a line, docs/formats.md) and a TensorBoard events file with the same scalars.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "cairn/core/files.h"

namespace cairn {

// A file that only grows. Opened at a known size, what stands behind it (lines of a run that was killed after its last checkpoint) is cut
// off.
class AppendFile {
 public:
  // keep_bytes: size to start from; UserError if the file is shorter than that or cannot be written.
  AppendFile(fs::path path, int64_t keep_bytes);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  void append(std::string_view bytes);  // reaches the file at once
  void sync();                          // reaches the disk
  int64_t size() const { return size_; }

 private:
  fs::path path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

// CRC-32C (Castagnoli) and TFRecord's masked form.
uint32_t crc32c(std::string_view bytes);
uint32_t masked_crc32c(std::string_view bytes);
// One TFRecord: length, its checksum, bytes, their checksum.
std::string tf_record(std::string_view bytes);
// Serialized tensorflow.Event messages.
std::string version_event(double wall_time);
std::string scalar_event(double wall_time, int64_t step, const std::map<std::string, double>& scalars);

class Metrics {
 public:
  struct Sizes {
    int64_t metrics = 0, events = 0;
  };
  // `kept`: sizes at the checkpoint that the run goes on from; zeros for a new run.
  Metrics(const fs::path& folder, Sizes kept);
  void write(const std::string& json_line);                                  // without the newline
  void scalars(int64_t step, const std::map<std::string, double>& scalars);  // non-finite values are left out
  Sizes sizes() const { return {metrics_.size(), events_.size()}; }
  void sync();

 private:
  AppendFile metrics_, events_;
};

inline constexpr const char* kMetricsFile = "metrics.jsonl";
inline constexpr const char* kEventsFile = "events.out.tfevents.0000000000.cairn";

}  // namespace cairn
