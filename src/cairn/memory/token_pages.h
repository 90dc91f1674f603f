// The token ids of a text that has been read: 2 or 4 bytes each, in pages that may lie in a mapped file. Edits replace pages, never bytes
// that someone else holds.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace cairn {

class TokenPages {
 public:
  explicit TokenPages(int64_t width) : width_(width) {}  // bytes a token: 2 or 4
  int64_t size() const { return size_; }
  int64_t width() const { return width_; }

  void append(std::span<const int32_t> ids);
  // Tokens first .. first + count of `bytes` (ids of width() bytes, little-endian), which live as long as the pointer. Nothing is copied.
  void adopt(std::shared_ptr<const uint8_t> bytes, int64_t first, int64_t count);
  // Tokens begin .. begin + count of another text, sharing its storage.
  void adopt(const TokenPages& other, int64_t begin, int64_t count);
  void read(int64_t begin, std::span<int32_t> out) const;
  // Replaces tokens begin .. begin + removed by `ids`.
  void splice(int64_t begin, int64_t removed, std::span<const int32_t> ids);
  // Ids begin .. begin + count as bytes.
  std::vector<uint8_t> bytes(int64_t begin, int64_t count) const;

 private:
  struct Page {
    std::shared_ptr<const uint8_t> data;
    std::shared_ptr<uint8_t> own;  // data, where this object may append to it
    int64_t first = 0, begin = 0, count = 0, capacity = 0;
  };
  template <typename F>
  void for_pieces(int64_t begin, int64_t count, F f) const;

  int64_t width_, size_ = 0;
  std::vector<Page> pages_;
};

}  // namespace cairn
