#include "cairn/memory/token_pages.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "cairn/core/error.h"

namespace cairn {
namespace {

constexpr int64_t kSmallestPage = 4096, kLargestPage = int64_t{1} << 22;  // tokens

void store(std::span<const int32_t> ids, int64_t width, uint8_t* to) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (width == 2) {
      const auto id = static_cast<uint16_t>(ids[i]);
      std::memcpy(to + 2 * i, &id, 2);
    } else {
      std::memcpy(to + 4 * i, &ids[i], 4);
    }
  }
}

}  // namespace

template <typename F>
void TokenPages::for_pieces(int64_t begin, int64_t count, F f) const {
  CAIRN_CHECK(begin >= 0 && count >= 0 && begin <= size_ - count, "tokens {} + {} of {}", begin, count, size_);
  auto page = std::upper_bound(pages_.begin(), pages_.end(), begin, [](int64_t n, const Page& p) { return n < p.begin; });
  if (page != pages_.begin()) --page;
  for (int64_t done = 0; done < count; ++page) {
    const int64_t offset = begin + done - page->begin, piece = std::min(count - done, page->count - offset);
    if (piece <= 0) continue;
    f(*page, offset, done, piece);
    done += piece;
  }
}

void TokenPages::append(std::span<const int32_t> ids) {
  if (ids.empty()) return;
  for (const int32_t id : ids) CAIRN_CHECK(id >= 0 && (width_ == 4 || id < 65536), "id {}", id);
  while (!ids.empty()) {
    if (pages_.empty() || pages_.back().first + pages_.back().count == pages_.back().capacity) {
      const int64_t capacity = std::clamp(std::max<int64_t>(size_, std::ssize(ids)), kSmallestPage, kLargestPage);
      Page page;
      page.own = std::shared_ptr<uint8_t>(new uint8_t[capacity * width_], std::default_delete<uint8_t[]>());
      page.data = page.own;
      page.begin = size_;
      page.capacity = capacity;
      pages_.push_back(std::move(page));
    }
    Page& page = pages_.back();
    const int64_t piece = std::min<int64_t>(std::ssize(ids), page.capacity - page.first - page.count);
    store(ids.first(piece), width_, page.own.get() + (page.first + page.count) * width_);
    page.count += piece;
    size_ += piece;
    ids = ids.subspan(piece);
  }
}

void TokenPages::adopt(std::shared_ptr<const uint8_t> bytes, int64_t first, int64_t count) {
  if (count == 0) return;
  if (!pages_.empty()) pages_.back().capacity = pages_.back().first + pages_.back().count;  // what follows may not be written into it
  Page page;
  page.data = std::move(bytes);
  page.first = first;
  page.begin = size_;
  page.count = count;
  page.capacity = first + count;
  size_ += count;
  pages_.push_back(std::move(page));
}

void TokenPages::adopt(const TokenPages& other, int64_t begin, int64_t count) {
  CAIRN_CHECK(other.width_ == width_, "ids of {} and {} bytes", other.width_, width_);
  other.for_pieces(begin, count,
                   [&](const Page& page, int64_t offset, int64_t, int64_t piece) { adopt(page.data, page.first + offset, piece); });
}

void TokenPages::read(int64_t begin, std::span<int32_t> out) const {
  for_pieces(begin, std::ssize(out), [&](const Page& page, int64_t offset, int64_t done, int64_t piece) {
    const uint8_t* from = page.data.get() + (page.first + offset) * width_;
    for (int64_t i = 0; i < piece; ++i) {
      uint32_t id = 0;
      std::memcpy(&id, from + i * width_, width_);
      out[done + i] = static_cast<int32_t>(id);
    }
  });
}

void TokenPages::splice(int64_t begin, int64_t removed, std::span<const int32_t> ids) {
  CAIRN_CHECK(begin >= 0 && removed >= 0 && begin <= size_ - removed, "tokens {} + {} of {}", begin, removed, size_);
  TokenPages result(width_);
  result.adopt(*this, 0, begin);
  result.append(ids);
  result.adopt(*this, begin + removed, size_ - begin - removed);
  *this = std::move(result);
}

std::vector<uint8_t> TokenPages::bytes(int64_t begin, int64_t count) const {
  std::vector<uint8_t> result(count * width_);
  for_pieces(begin, count, [&](const Page& page, int64_t offset, int64_t done, int64_t piece) {
    std::memcpy(result.data() + done * width_, page.data.get() + (page.first + offset) * width_, piece * width_);
  });
  return result;
}

}  // namespace cairn
