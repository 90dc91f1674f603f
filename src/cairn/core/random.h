// Counter-based random numbers: the n-th number of a stream is a pure function of (key, n), so sample i depends on (seed, i) only and there
// is no generator state to save (docs/architecture.md, principle 6).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

namespace cairn {

// A strong 64-bit mix of a list of words; used to derive stream keys: stream_key({seed, kPurpose, i}).
uint64_t stream_key(std::initializer_list<uint64_t> words);

// The block function: 128 counter bits and 64 key bits to 128 random bits.
void philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

// One stream of Philox-4x32-10 numbers. Cheap to make; copy to fork.
class Random {
 public:
  explicit Random(uint64_t key) : key_(key) {}
  Random(uint64_t seed, uint64_t index) : Random(stream_key({seed, index})) {}

  uint64_t next();           // 64 uniform bits
  int64_t below(int64_t n);  // uniform in [0, n), n >= 1, unbiased
  double uniform();          // uniform in [0, 1), 53 bits
  double normal();           // standard normal (Box-Muller; two uniforms a call)
  double exponential();      // mean 1, never 0
  bool chance(double p) { return uniform() < p; }

  template <typename T>
  void shuffle(std::vector<T>& values) {  // Fisher-Yates
    for (int64_t i = static_cast<int64_t>(values.size()) - 1; i > 0; --i) std::swap(values[i], values[below(i + 1)]);
  }
  // k distinct numbers of 0..n-1 in random order, k <= n; O(k) memory.
  std::vector<int64_t> choose(int64_t n, int64_t k);

 private:
  uint64_t key_;
  uint64_t counter_ = 0;    // next block
  uint32_t block_[4] = {};  // current block
  int used_ = 4;            // words used of the block
};

}  // namespace cairn
