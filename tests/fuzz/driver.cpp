// A small fuzzer of our own, for compilers without libFuzzer: mutations of the valid files, no feedback. Also writes the seeds for
// libFuzzer and runs given inputs.
//
//   fuzz_NAME [--seconds S]          mutates for S seconds (2); CAIRN_FUZZ_SEED=N repeats a run
//   fuzz_NAME --seeds FOLDER         writes the valid files into FOLDER, and the dictionary as FOLDER.dict
//   fuzz_NAME FILE...                runs these inputs
//
// The input that is being run lies in a file next to where the program was started: NAME.input. A run that ends well removes it.
#include <fcntl.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "cairn/core/files.h"
#include "cairn/core/random.h"
#include "fuzz/fuzz.h"

namespace cairn::fuzz {
namespace {

constexpr size_t kMaxInput = 1 << 16;

// The present input in a file that outlives a crash; no system call a round.
class Blackbox {
 public:
  explicit Blackbox(std::string path)
      : path_(std::move(path)), descriptor_(open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
    CAIRN_CHECK(descriptor_ >= 0 && ftruncate(descriptor_, kMaxInput + 8) == 0, "{}", path_);
    void* address = mmap(nullptr, kMaxInput + 8, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
    CAIRN_CHECK(address != MAP_FAILED);
    bytes_ = static_cast<char*>(address);
  }
  ~Blackbox() {
    munmap(bytes_, kMaxInput + 8);
    close(descriptor_);
    unlink(path_.c_str());
  }
  void run(const std::string& input) {
    const uint64_t size = input.size();
    std::memcpy(bytes_, &size, 8);
    std::memcpy(bytes_ + 8, input.data(), input.size());
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
  }

 private:
  std::string path_;
  int descriptor_;
  char* bytes_ = nullptr;
};

void mutate(std::string* bytes, const std::vector<std::string>& all, const std::vector<std::string>& dictionary, Random* random) {
  auto below = [&](size_t n) { return static_cast<size_t>(random->below(static_cast<int64_t>(n))); };
  const size_t place = below(bytes->size() + 1), rest = bytes->size() - place;
  const std::string& word = dictionary[below(dictionary.size())];
  switch (below(9)) {
    case 0:
      if (rest > 0) (*bytes)[place] = static_cast<char>(below(256));
      break;
    case 1:
      if (rest > 0) (*bytes)[place] = static_cast<char>((*bytes)[place] ^ (1 << below(8)));
      break;
    case 2:
      bytes->erase(place, 1 + below(8));
      break;
    case 3:
      bytes->insert(place, word);
      break;
    case 4:
      bytes->replace(place, std::min(rest, word.size()), word);
      break;
    case 5:  // a number somewhat larger or smaller, where numbers tend to lie
      if (const size_t at = place / 8 * 8; at + 8 <= bytes->size()) put(bytes, at, get<uint64_t>(*bytes, at) + below(33) - 16);
      break;
    case 6: {  // a piece of another file
      const std::string& other = all[below(all.size())];
      const size_t from = below(other.size() + 1);
      bytes->insert(place, other, from, below(64));
      break;
    }
    case 7:
      bytes->resize(place);
      break;
    default:  // a piece of itself
      bytes->insert(place, std::string(*bytes, below(bytes->size() + 1), below(32)));
      break;
  }
  if (bytes->size() > kMaxInput) bytes->resize(kMaxInput);
}

void fuzz(const std::string& name, double seconds) {
  const char* fixed = std::getenv("CAIRN_FUZZ_SEED");
  const uint64_t seed = fixed ? std::strtoull(fixed, nullptr, 10) : std::random_device{}();
  std::printf("%s: CAIRN_FUZZ_SEED=%llu; a finding lies in %s.input (8 bytes of length, then the input)\n", name.c_str(),
              static_cast<unsigned long long>(seed), name.c_str());
  std::fflush(stdout);
  const auto all = seeds(), dictionary = words();
  Random random(seed, 0);
  Blackbox blackbox(name + ".input");
  for (const std::string& input : all) {
    CAIRN_CHECK(input.size() <= kMaxInput, "a seed of {} bytes", input.size());
    const int64_t before = accepted;
    blackbox.run(input);
    CAIRN_CHECK(accepted > before, "a valid input is refused");
  }
  accepted = 0;
  const auto begin = std::chrono::steady_clock::now();
  int64_t rounds = 0;
  double passed = 0;
  for (; passed < seconds; ++rounds) {
    std::string input = all[static_cast<size_t>(random.below(static_cast<int64_t>(all.size())))].substr(0, kMaxInput);
    for (int64_t changes = 1 + random.below(4); changes > 0; --changes) mutate(&input, all, dictionary, &random);
    blackbox.run(input);
    passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  std::printf("%s: %lld executions in %.1f s (%lld inputs were accepted), no findings\n", name.c_str(), static_cast<long long>(rounds),
              passed, static_cast<long long>(accepted));
  CAIRN_CHECK(accepted > 0 || rounds < 1000, "every mutation is refused");
}

void write_seeds(const fs::path& folder) {
  fs::create_directories(folder);
  const auto all = seeds();
  for (size_t i = 0; i < all.size(); ++i) write_file(folder / fmt::format("seed-{}", i), all[i]);
  std::string dictionary;
  for (const std::string& word : words()) {
    dictionary += '"';
    for (const char c : word) dictionary += fmt::format("\\x{:02X}", static_cast<unsigned char>(c));
    dictionary += "\"\n";
  }
  write_file(folder.string() + ".dict", dictionary);
}

}  // namespace
}  // namespace cairn::fuzz

int main(int argc, char** argv) {
  using namespace cairn;
  const std::string option = argc > 1 ? argv[1] : "--seconds", value = argc > 2 ? argv[2] : "2";
  if (option == "--seeds") {
    fuzz::write_seeds(value);
  } else if (option == "--seconds") {
    fuzz::fuzz(fs::path(argv[0]).filename().string(), std::strtod(value.c_str(), nullptr));
  } else {
    for (int i = 1; i < argc; ++i) {
      const std::string bytes = read_file(argv[i]);
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
      std::printf("%s: %zu bytes, no finding\n", argv[i], bytes.size());
    }
  }
}
