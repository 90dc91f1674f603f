#include "cairn/infer/read_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <future>
#include <iterator>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/core/files.h"
#include "cairn/infer/shared_reading.h"
#include "cairn/text/text_parts.h"

namespace cairn {
namespace {

constexpr int64_t kRoundBytes = int64_t{1} << 20;  // of text that is tokenized at a time
constexpr size_t kRoundsAhead = 4;
constexpr int64_t kBytesOfToken = 2;  // of its id in the file; 4 in large vocabularies, which is small beside keys and values

// Rounds of parts, made by a thread of its own, a few ahead of what is taken.
class PartsAhead {
 public:
  PartsAhead(std::shared_ptr<const Tokenizer> tokenizer, const ReadTextOptions& options, TextPlace start)
      : parts_(std::move(tokenizer), options.files, options.threads, start, kRoundBytes),
        start_bytes_(parts_.bytes_done()),
        thread_([this] { run(); }) {}
  ~PartsAhead() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  // The next round; nothing at the end. Throws what the thread met. idle (may be empty): called every second while none is there.
  std::optional<std::vector<TextPart>> take(const std::function<void()>& idle) {
    std::unique_lock lock(mutex_);
    const auto ready = [this] { return !rounds_.empty() || done_; };
    while (idle && !changed_.wait_for(lock, std::chrono::seconds(1), ready)) {
      lock.unlock();
      idle();
      lock.lock();
    }
    changed_.wait(lock, ready);
    if (rounds_.empty()) {
      if (error_) std::rethrow_exception(error_);
      return std::nullopt;
    }
    std::vector<TextPart> round = std::move(rounds_.front());
    rounds_.pop_front();
    lock.unlock();
    changed_.notify_all();
    return round;
  }
  const std::string& source_name(int64_t source) const { return parts_.source_name(source); }
  int64_t start_bytes() const { return start_bytes_; }
  int64_t bytes_total() const { return parts_.bytes_total(); }

 private:
  void run() {
    try {
      std::vector<TextPart> round;
      while (parts_.next(&round)) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return stop_ || rounds_.size() < kRoundsAhead; });
        if (stop_) return;
        rounds_.push_back(std::move(round));
        lock.unlock();
        changed_.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    changed_.notify_all();
  }

  TextParts parts_;
  int64_t start_bytes_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::vector<TextPart>> rounds_;
  std::exception_ptr error_;
  bool stop_ = false, done_ = false;
  std::thread thread_;  // last: it uses all of the above
};

// A page on its way from a memory to the file.
struct PageToWrite {
  ChunkEncoding chunks;  // in main memory once the copies are done
  std::vector<uint8_t> ids;
};

std::vector<ReadingIndex::Source> reading_sources(const std::vector<fs::path>& files) {
  std::vector<ReadingIndex::Source> sources;
  for (const fs::path& path : files) {
    std::error_code error;
    const bool regular = path != "-" && fs::is_regular_file(path, error);
    sources.push_back({path.string(), regular ? static_cast<int64_t>(fs::file_size(path, error)) : 0});
  }
  return sources;
}

class TextReading {
 public:
  // go_on: asked between segments; once it has said no, nothing more is read.
  TextReading(const Reader& reader, MemoryFile& file, const Tokenizer& tokenizer, const ReadTextOptions& options, SharedReading* others,
              std::function<bool()> go_on)
      : reader_(reader),
        file_(file),
        others_(others),
        go_on_(std::move(go_on)),
        options_(options),
        chunk_(reader.model().config().chunk),
        separator_(document_separator(tokenizer)),
        sources_(reading_sources(options.files)) {
    if (!file.root().reading) {
      file.root().reading = ReadingIndex{};
      if (file.root().memory) file.root().reading->memory = *file.root().memory;
      file.root().reading->sources = sources_;
    } else if (file.root().reading->sources != sources_) {
      std::string names;
      for (const auto& source : file.root().reading->sources) names += " " + source.path;
      throw UserError(
          "{}: a reading of other files is not finished in it:{}; give the same files (unchanged) to go on, or --force to discard it",
          file.path().string(), names);
    }
    const ReadingIndex& reading = *file.root().reading;
    text_ = file.load_end(reading.memory, reader.device());
    start_tokens_ = reading.memory.tokens;
    start_ = {reading.source, reading.offset};
    skip_ = reading.skip;
  }

  TextPlace start() const { return start_; }
  int64_t tokens() const { return text_.state->end; }
  int64_t new_tokens() const { return tokens() - start_tokens_; }

  // Takes a part in; reads whole segments of what is waiting, unless it is told to stop.
  void add(const TextPart& part, const std::string& name) {
    const int64_t begin = tokens() + std::ssize(waiting_) - skip_;  // of the part and the separator in front of it
    std::vector<int32_t> ids;
    if (part.begins_document && begin > 0) ids = separator_;
    if (part.begins_document) {
      const int64_t token = begin + std::ssize(ids);
      // A reading that goes on inside the document knows it already.
      if (text_.documents.empty() || text_.documents.back().token < token) text_.documents.push_back({name, token});
    }
    ids.insert(ids.end(), part.ids.begin(), part.ids.end());
    places_.push_back({begin, part.begin});
    CAIRN_CHECK(skip_ <= std::ssize(ids), "skip {} of {} tokens", skip_, ids.size());
    waiting_.insert(waiting_.end(), ids.begin() + skip_, ids.end());
    skip_ = 0;
    const int64_t segment = std::max(reader_.segment_tokens() / chunk_, int64_t{1}) * chunk_;
    int64_t used = 0;
    while (std::ssize(waiting_) - used >= segment && !stopped_) {
      const int64_t n = segment - tokens() % chunk_;  // ends on the chunk grid
      if (others_ != nullptr && n == segment) {
        if (std::ssize(waiting_) - used < others_->part_tokens()) break;
        used += feed_all({waiting_.data() + used, static_cast<size_t>(others_->part_tokens())});
        continue;
      }
      feed({waiting_.data() + used, static_cast<size_t>(n)});
      used += n;
      flush_full_pages();
      may_go_on();
    }
    drop_waiting(used);
  }

  bool stopped() const { return stopped_; }

  // Everything that waits is read; the file's memory becomes what was read. False: it was told to stop before.
  bool finish() {
    int64_t rest = std::ssize(waiting_);
    if (rest > 0 && others_ != nullptr && tokens() % chunk_ == 0) {
      rest = feed_all(waiting_);
    } else if (rest > 0) {
      feed(waiting_);
    }
    drop_waiting(rest);
    if (stopped_) return false;
    if (tokens() == 0) throw UserError("the files hold no text: nothing to remember");
    flush_all();
    file_.root().memory = std::move(file_.root().reading->memory);
    file_.root().reading.reset();
    file_.commit();
    return true;
  }

  // What was read so far becomes the point where the reading goes on.
  void stop() {
    flush_all();
    file_.commit();
  }

 private:
  bool may_go_on() {
    stopped_ = stopped_ || !go_on_();
    return !stopped_;
  }

  void feed(std::span<const int32_t> ids) {
    if (others_ != nullptr) others_->forget();
    text_.tokens.append(ids);
    const int64_t start = text_.state->end;
    reader_.read(*text_.state, std::ssize(ids), [&](int64_t, int64_t begin, std::span<int32_t> out) {
      std::copy_n(ids.begin() + (begin - start), out.size(), out.begin());
    });
  }

  // The same by all processes. Tokens read: all, or as far as it came.
  int64_t feed_all(std::span<const int32_t> ids) {
    flush_chunks();
    std::vector<PageToWrite> pages;
    int64_t done = 0;
    const int64_t start = tokens();
    std::vector<ChunkEncoding> read = others_->read(*text_.state, ids, [this] { return may_go_on(); });
    const int64_t count = tokens() - start;
    text_.tokens.append(ids.first(static_cast<size_t>(count)));
    for (ChunkEncoding& chunks : read) {
      const int64_t n = chunks.landmarks.size(1);
      pages.push_back({std::move(chunks), text_.tokens.bytes(done * chunk_, n * chunk_)});
      done += n;
    }
    write(std::move(pages), [] {});
    drop_tokens(done);
    commit_now_and_then();
    return count;
  }

  void drop_waiting(int64_t used) {
    waiting_.erase(waiting_.begin(), waiting_.begin() + used);
    while (places_.size() > 1 && places_[1].first <= tokens()) places_.pop_front();
  }

  void flush_full_pages() {
    if (text_.state->memory.chunks() < ChunkMemory::kLargestPage) return;
    flush_chunks();
    commit_now_and_then();
  }

  void commit_now_and_then() {
    const auto now = std::chrono::steady_clock::now();
    if (std::chrono::duration<double>(now - committed_).count() < options_.commit_seconds) return;
    describe_state();
    file_.commit();
    committed_ = now;
  }

  // Complete chunks go to the file and leave the memory.
  void flush_chunks() {
    ChunkMemory& memory = text_.state->memory;
    const int64_t count = memory.chunks(), end = memory.end_chunk();
    if (count == 0) return;
    std::vector<PageToWrite> pages;
    for (int64_t done = 0; done < count;) {
      const int64_t n = std::min(count - done, ChunkMemory::kLargestPage);
      pages.push_back({copy_to_host(memory, memory.first_chunk() + done, n), text_.tokens.bytes(done * chunk_, n * chunk_)});
      done += n;
    }
    write(std::move(pages), wait_for_device(reader_.device()));
    text_.state->memory = ChunkMemory(reader_.model().config(), 1, end);
    drop_tokens(count);
  }

  // A thread of its own works out checksums and writes while the next segments are read; until wait_for_writer() the file belongs to it.
  void write(std::vector<PageToWrite> pages, std::function<void()> copied) {
    wait_for_writer();
    writer_ = std::async(std::launch::async, [this, pages = std::move(pages), copied = std::move(copied)] {
      copied();
      std::vector<PageIndex> written;
      for (const PageToWrite& page : pages) written.push_back(file_.add_page(page.chunks, page.ids));
      return written;
    });
  }

  // Token ids of the first `chunks` chunks leave main memory.
  void drop_tokens(int64_t chunks) {
    TokenPages rest(text_.tokens.width());
    std::vector<int32_t> ids(text_.tokens.size() - chunks * chunk_);
    text_.tokens.read(chunks * chunk_, ids);
    rest.append(ids);
    text_.tokens = std::move(rest);
  }

  // Throws what the writing met.
  void wait_for_writer() {
    if (!writer_.valid()) return;
    const std::vector<PageIndex> pages = writer_.get();
    std::vector<PageIndex>& all = file_.root().reading->memory.pages;
    all.insert(all.end(), pages.begin(), pages.end());
  }

  void describe_state() {
    wait_for_writer();
    ReadingIndex& reading = *file_.root().reading;
    std::vector<int32_t> partial(text_.tokens.size());
    text_.tokens.read(0, partial);
    file_.set_state(&reading.memory, *text_.state, partial);
    reading.memory.documents.clear();
    const int64_t read = tokens();
    for (const Document& document : text_.documents) {
      if (document.token < read) reading.memory.documents.push_back(document);
    }
    // The last place at or before what was read.
    for (const auto& [token, place] : places_) {
      if (token > read) break;
      reading.source = place.source;
      reading.offset = place.offset;
      reading.skip = read - token;
    }
  }

  void flush_all() {
    flush_chunks();
    describe_state();
  }

  const Reader& reader_;
  MemoryFile& file_;
  SharedReading* const others_;  // who reads along; null: nobody
  const std::function<bool()> go_on_;
  bool stopped_ = false;
  const ReadTextOptions& options_;
  const int64_t chunk_;
  const std::vector<int32_t> separator_;
  const std::vector<ReadingIndex::Source> sources_;
  TextMemory text_;  // chunks and tokens that are not in the file yet
  int64_t start_tokens_ = 0, skip_ = 0;
  TextPlace start_;
  std::vector<int32_t> waiting_;                      // tokens that follow what was read
  std::deque<std::pair<int64_t, TextPlace>> places_;  // first token (separator included) of the parts that are not read yet
  std::chrono::steady_clock::time_point committed_ = std::chrono::steady_clock::now();
  std::future<std::vector<PageIndex>> writer_;  // last: what still runs uses all of the above
};

}  // namespace

namespace {

// Refuses a text whose memory will not fit on the disk, judged by the first round: its tokens a byte hold for the rest, give or take a
// quarter.
void require_space(const ModelConfig& config, const MemoryFile& file, const std::vector<TextPart>& round, int64_t bytes_left) {
  int64_t tokens = 0, bytes = 0;
  for (const TextPart& part : round) tokens += std::ssize(part.ids), bytes += part.bytes;
  if (bytes == 0 || bytes_left <= 0) return;
  const double expected = static_cast<double>(tokens) / static_cast<double>(bytes) * static_cast<double>(bytes_left);
  const auto chunks = static_cast<int64_t>(0.75 * expected) / config.chunk;
  const int64_t size =
      ChunkMemory::bytes_for(config, 1, chunks, file.root().compute == "fp32" ? 4 : 2) + chunks * config.chunk * kBytesOfToken;
  require_free_space(file.path().has_parent_path() ? file.path().parent_path() : fs::path("."), size,
                     fmt::format("the memory of about {:.3g} M tokens", expected / 1e6));
}

}  // namespace

bool reads_other_files(const MemoryFile& file, const std::vector<fs::path>& files) {
  return file.root().reading && file.root().reading->sources != reading_sources(files);
}

ReadTextResult read_text(const Reader& reader, MemoryFile& file, std::shared_ptr<const Tokenizer> tokenizer, const ReadTextOptions& options,
                         const std::function<bool(const ReadTextProgress&)>& progress, SharedReading* others) {
  ReadTextResult result;
  ReadTextProgress now;
  std::function<bool()> tell;
  TextReading reading(reader, file, *tokenizer, options, others, [&] { return tell(); });
  PartsAhead ahead(tokenizer, options, reading.start());
  now.bytes_done = ahead.start_bytes();
  now.bytes_total = ahead.bytes_total();
  tell = [&] {
    now.tokens = reading.tokens();
    return !progress || progress(now);
  };
  const std::function<void()> idle = others == nullptr ? std::function<void()>() : [others] { others->still_here(); };
  bool go_on = tell(), first = true;
  while (go_on) {
    const auto round = ahead.take(idle);
    if (idle) idle();  // a part has many rounds
    if (!round) break;
    if (std::exchange(first, false)) require_space(reader.model().config(), file, *round, now.bytes_total - now.bytes_done);
    for (const TextPart& part : *round) {
      reading.add(part, ahead.source_name(part.begin.source));
      now.bytes_done += part.bytes;
      if (!(go_on = !reading.stopped() && tell())) break;
    }
  }
  if (go_on) go_on = reading.finish();
  if (go_on) {
    tell();
  } else {
    reading.stop();
  }
  result.finished = go_on;
  result.tokens = reading.tokens();
  result.new_tokens = reading.new_tokens();
  return result;
}

}  // namespace cairn
