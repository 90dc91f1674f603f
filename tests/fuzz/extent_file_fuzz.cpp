// ExtentFile and the root of memory files. An input is a file (if it begins with the magic), or a short form of one: the first 128 bytes of
// each header slot, then up to 256 bytes of each page of 4096; the rest are zeros. Either is read as it is, and once more with right
// checksums. A file that is accepted must bear to be written to: what it held stays, what is added is there.
#include <algorithm>

#include "cairn/core/extent_file.h"
#include "cairn/core/json.h"
#include "cairn/memory/memory_root.h"
#include "core/temp_folder.h"
#include "fuzz/fuzz.h"

namespace cairn::fuzz {
namespace {

constexpr size_t kSlot = 128, kPage = 256;
constexpr std::string_view kMagic = "CAIRNMEM";

std::string expand(std::string_view input) {
  if (input.starts_with(kMagic)) return std::string(input);
  std::string bytes;
  for (size_t at = 0, take = 0; at < input.size(); at += take) {
    take = std::min(bytes.size() < 8192 ? kSlot : kPage, input.size() - at);
    bytes.append(input.substr(at, take)).resize((bytes.size() + 4095) / 4096 * 4096);
  }
  // Mutations would have to guess the magic, where they cannot flip it back.
  for (const size_t slot : {0, 4096})
    if (bytes.size() >= slot + kMagic.size() && bytes[slot] != 0) bytes.replace(slot, kMagic.size(), kMagic);
  return bytes;
}

// The inverse, for files whose pages hold little.
std::string shorten(const std::string& file) {
  std::string input = file.substr(0, kSlot) + file.substr(4096, kSlot);
  if (input[0] != 0) input[0] = 'c';  // not a whole file
  for (size_t page = 8192; page < file.size(); page += 4096) input += file.substr(page, kPage);
  return input;
}

void repair(std::string* bytes) {
  for (const size_t slot : {0, 4096}) {
    if (bytes->size() < slot + kSlot) return;
    const auto offset = get<uint64_t>(*bytes, slot + 24), count = get<uint64_t>(*bytes, slot + 32);
    if (offset <= bytes->size() && count <= bytes->size() - offset)
      put(bytes, slot + 40, hash_bytes(std::string_view(*bytes).substr(offset, count)));
    put(bytes, slot + 120, hash_bytes(std::string_view(*bytes).substr(slot, 120)));
  }
}

// What readers of the root do: for now JSON, whose members are read by src/cairn/memory. Its reader of a MEMORY belongs here, too.
void read_root(const ExtentFile& file) {
  try {
    const MemoryRoot root = MemoryRoot::from_json(file.root(), file.path().string());
    root.check_extents(file);
    (void)root.to_json();
  } catch (const UserError&) {
  }
}

struct Held {
  std::vector<std::pair<int64_t, std::string>> extents;
};

Held read_extents(const ExtentFile& file) {
  Held held;
  for (int64_t id = -1; id <= file.extents(); ++id) {
    try {
      const Extent extent = file.extent(id);
      const auto mapped = file.map(id);
      held.extents.emplace_back(id, std::string(reinterpret_cast<const char*>(mapped.get()), static_cast<size_t>(extent.bytes)));
      file.verify(id);
    } catch (const UserError&) {
    }
  }
  return held;
}

void read_all(std::string_view bytes) {
  static MemoryFile memory;
  const auto& path = memory.with(bytes);
  Held held;
  int64_t sequence = 0;
  try {
    const auto file = ExtentFile::open(path, false);
    sequence = file->sequence();
    CAIRN_CHECK(file->used_bytes() <= static_cast<int64_t>(bytes.size()), "{} of {} bytes", file->used_bytes(), bytes.size());
    held = read_extents(*file);
    read_root(*file);
  } catch (const UserError&) {
    return;
  }
  if (sequence == kMaxExtentCommits) return;
  const std::string added(5000, 'a');
  int64_t id = 0;
  {
    const auto file = ExtentFile::open(path, true);
    if (!held.extents.empty()) {
      file->remove(held.extents[0].first);
      held.extents.erase(held.extents.begin());
    }
    id = file->add({reinterpret_cast<const uint8_t*>(added.data()), added.size()});
    file->commit("{}");
  }
  const auto file = ExtentFile::open(path, false);
  CAIRN_CHECK(file->sequence() == sequence + 1 && file->root() == "{}");
  file->verify(id);
  held.extents.emplace_back(id, added);
  std::sort(held.extents.begin(), held.extents.end());
  CAIRN_CHECK(read_extents(*file).extents == held.extents);
  ++accepted;
}

}  // namespace

// A whole memory of one chunk, which the reader of roots must accept.
std::string memory_seed(const fs::path& path) {
  MemoryRoot root;
  root.model.chunk = 4;
  root.model.window = 1;
  root.model.lower_layers = 0;
  root.model.retrieval_dim = 8;
  root.model.head_dim = 4;
  root.model.upper = {"memory"};
  root.fingerprint = root.tokenizer_fingerprint = "0123456789abcdef";
  root.tokenizer_kind = "bytes";
  const auto file = ExtentFile::create(path);
  const std::string zeros(64, '\0');
  const auto add = [&](size_t count) { return file->add({reinterpret_cast<const uint8_t*>(zeros.data()), count}); };
  MemoryIndex index;
  index.tokens = 4;
  index.pages = {{1, 0, add(32), add(64), add(64), add(8)}};
  index.documents = {{"a", 0}};
  root.memory = index;
  root.reading = ReadingIndex{index, {{"b", 10}}, 0, 3, 1};
  root.check_extents(*file);
  file->commit(root.to_json());
  CAIRN_CHECK(MemoryRoot::from_json(file->root(), "seed").to_json() == file->root());
  return read_file(path);
}

std::vector<std::string> seeds() {
  TempFolder folder(quick_disk());
  std::vector<std::string> files;
  auto keep = [&] {
    files.push_back(read_file(folder / "x"));
    files.push_back(shorten(files.back()));
  };
  auto bytes = [](const std::string& text) { return std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()); };
  const std::string a = "some tokens", b = "landmarks";
  const auto file = ExtentFile::create(folder / "x");
  file->commit("{\"format\": \"cairn.memory\", \"version\": 1, \"memory\": null, \"reading\": null}");
  keep();
  file->add(bytes(a));
  file->add(bytes(b));
  file->add(bytes(a));
  file->commit("{\"memory\": {\"tokens\": 64, \"pages\": [{\"chunks\": 1, \"first\": 0, \"landmarks\": 0, \"k\": 1, \"v\": 2}]}}");
  keep();
  file->remove(1);
  file->commit("[]");
  keep();
  files.push_back(memory_seed(folder / "m"));
  return files;
}

std::vector<std::string> words() {
  std::vector<std::string> list = {
      std::string(kMagic), std::string(24, '\0'), std::string(8, '\xff'), "{", "}", "[", "]", "\"a\":", "1e999"};
  for (const uint64_t number : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{4096}, uint64_t{8192}, uint64_t{12288}, uint64_t{16384},
                                uint64_t{1} << 62, ~uint64_t{0} / 24, ~uint64_t{0} - 4095}) {
    list.emplace_back(8, '\0');
    put(&list.back(), 0, number);
  }
  return list;
}

}  // namespace cairn::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cairn::fuzz;
  std::string bytes = expand({reinterpret_cast<const char*>(data), size});
  read_all(bytes);
  repair(&bytes);
  read_all(bytes);
  return 0;
}
