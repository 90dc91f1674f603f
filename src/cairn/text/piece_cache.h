// Word -> ids, shared by all threads: readers take no lock, entries are never changed or removed. Bounded: when the neighbourhood of a
// word's slot is full the word is simply not remembered.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace cairn {

class PieceCache {
 public:
  static constexpr size_t kMaxWordBytes = 64;  // longer words are rare; they are encoded afresh

  PieceCache();
  ~PieceCache();
  PieceCache(const PieceCache&) = delete;
  PieceCache& operator=(const PieceCache&) = delete;

  static uint64_t hash(std::string_view word);
  // The ids of `word`, or a span whose data() is null. Valid while the cache lives.
  std::span<const int32_t> find(std::string_view word, uint64_t hash) const;
  void insert(std::string_view word, uint64_t hash, std::span<const int32_t> ids);

 private:
  struct Entry {
    uint64_t hash;
    uint32_t bytes, count;
    // Then `count` ids, then `bytes` bytes of the word.
    const int32_t* ids() const { return reinterpret_cast<const int32_t*>(this + 1); }
    const char* word() const { return reinterpret_cast<const char*>(ids() + count); }
  };
  static constexpr size_t kSlots = size_t{1} << 17, kProbes = 8;  // at most about 10 MB

  std::unique_ptr<std::atomic<const Entry*>[]> slots_;
};

}  // namespace cairn
