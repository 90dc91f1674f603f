#include "cairn/core/random.h"

#include <cmath>
#include <numbers>
#include <unordered_map>

#include "cairn/core/error.h"

namespace cairn {
namespace {

// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64 bits with full avalanche.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15ull;

}  // namespace

uint64_t stream_key(std::initializer_list<uint64_t> words) {
  // The length goes in first, so that {a} and {a, 0} differ; each step multiplies before it adds, so that order counts.
  uint64_t state = mix(words.size() + kGolden);
  for (uint64_t word : words) state = mix(state * 0xD1342543DE82EF95ull + mix(word + kGolden));
  return state;
}

// Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), Philox-4x32 with 10 rounds.
void philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(product1);
    c3 = static_cast<uint32_t>(product0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

uint64_t Random::next() {
  if (used_ >= 4) {
    const uint32_t counter[4] = {static_cast<uint32_t>(counter_), static_cast<uint32_t>(counter_ >> 32), 0, 0};
    const uint32_t key[2] = {static_cast<uint32_t>(key_), static_cast<uint32_t>(key_ >> 32)};
    philox4x32_10(counter, key, block_);
    ++counter_;
    used_ = 0;
  }
  const uint64_t value = block_[used_] | (uint64_t{block_[used_ + 1]} << 32);
  used_ += 2;
  return value;
}

int64_t Random::below(int64_t n) {
  CAIRN_CHECK(n >= 1, "n = {}", n);
  // Lemire 2019: the high word of a 128-bit product; the few low words that would favour some results are drawn again.
  const uint64_t range = static_cast<uint64_t>(n);
  unsigned __int128 product = static_cast<unsigned __int128>(next()) * range;
  if (static_cast<uint64_t>(product) < range) {
    const uint64_t threshold = -range % range;
    while (static_cast<uint64_t>(product) < threshold) product = static_cast<unsigned __int128>(next()) * range;
  }
  return static_cast<int64_t>(product >> 64);
}

double Random::uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

double Random::normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

double Random::exponential() {
  // Numerator 1 .. 2^53 - 1 over 2^53: the logarithm is finite and never 0.
  const uint64_t bits = next() >> 11;
  return -std::log(static_cast<double>(bits == 0 ? 1 : bits) * 0x1.0p-53);
}

std::vector<int64_t> Random::choose(int64_t n, int64_t k) {
  CAIRN_CHECK(0 <= k && k <= n, "k = {}, n = {}", k, n);
  // The first k steps of a Fisher-Yates shuffle of 0..n-1; only the places that were touched are stored.
  std::unordered_map<int64_t, int64_t> moved;
  auto at = [&moved](int64_t place) {
    auto found = moved.find(place);
    return found == moved.end() ? place : found->second;
  };
  std::vector<int64_t> chosen(k);
  for (int64_t i = 0; i < k; ++i) {
    const int64_t j = i + below(n - i);
    chosen[i] = at(j);
    moved[j] = at(i);
  }
  return chosen;
}

}  // namespace cairn
