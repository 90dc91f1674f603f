#include "cairn/text/piece_cache.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace cairn {

PieceCache::PieceCache() : slots_(new std::atomic<const Entry*>[kSlots]()) {}

PieceCache::~PieceCache() {
  for (size_t i = 0; i < kSlots; ++i) std::free(const_cast<Entry*>(slots_[i].load(std::memory_order_relaxed)));
}

uint64_t PieceCache::hash(std::string_view word) { return XXH3_64bits(word.data(), word.size()); }

std::span<const int32_t> PieceCache::find(std::string_view word, uint64_t hash) const {
  for (size_t probe = 0; probe < kProbes; ++probe) {
    const Entry* entry = slots_[(hash + probe) % kSlots].load(std::memory_order_acquire);
    if (entry == nullptr) return {};
    if (entry->hash == hash && entry->bytes == word.size() && std::memcmp(entry->word(), word.data(), word.size()) == 0)
      return {entry->ids(), entry->count};
  }
  return {};
}

void PieceCache::insert(std::string_view word, uint64_t hash, std::span<const int32_t> ids) {
  Entry* entry = nullptr;
  for (size_t probe = 0; probe < kProbes; ++probe) {
    auto& slot = slots_[(hash + probe) % kSlots];
    const Entry* current = slot.load(std::memory_order_acquire);
    if (current == nullptr) {
      if (entry == nullptr) {
        void* memory = std::malloc(sizeof(Entry) + ids.size_bytes() + word.size());
        if (memory == nullptr) return;  // a cache may forget
        entry = new (memory) Entry{hash, static_cast<uint32_t>(word.size()), static_cast<uint32_t>(ids.size())};
        std::memcpy(const_cast<int32_t*>(entry->ids()), ids.data(), ids.size_bytes());
        std::memcpy(const_cast<char*>(entry->word()), word.data(), word.size());
      }
      if (slot.compare_exchange_strong(current, entry, std::memory_order_acq_rel)) return;
    }
    // Another thread may have brought the same word meanwhile.
    if (current->hash == hash && current->bytes == word.size() && std::memcmp(current->word(), word.data(), word.size()) == 0) break;
  }
  std::free(entry);
}

}  // namespace cairn
