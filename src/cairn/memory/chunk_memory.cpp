#include "cairn/memory/chunk_memory.h"

#include <ATen/TensorIndexing.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_unique2.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/quantize/rows.h"
#include "cairn/ops/select/int8.h"
#include "cairn/ops/step/kernels.h"

namespace cairn {

namespace {

// Host memory that a GPU reaches, of the dtype of `like`.
at::Tensor pinned(at::IntArrayRef sizes, const at::Tensor& like) {
  return at::empty(sizes, at::TensorOptions().dtype(like.scalar_type()).pinned_memory(true));
}

constexpr int64_t kScaleBytes = 2;

// Rows out of pages: as they are, or exactly in fp32.
at::Tensor exact(const at::Tensor& x, const at::Tensor& scale) { return scale.defined() ? dequantize_rows(x, scale, at::kFloat) : x; }

}  // namespace

const std::vector<at::Tensor ChunkMemory::Tensors::*>& ChunkMemory::Tensors::all() {
  static const std::vector<at::Tensor Tensors::*> members = {&Tensors::landmarks,      &Tensors::k,       &Tensors::v,
                                                             &Tensors::landmark_scale, &Tensors::k_scale, &Tensors::v_scale};
  return members;
}

ChunkMemory::ChunkMemory(const ModelConfig& config, int64_t batch, int64_t first_chunk, int64_t largest_page)
    : batch_(batch),
      first_chunk_(first_chunk),
      chunk_size_(config.chunk),
      heads_(config.retrieval_heads),
      head_dim_(config.head_dim),
      kv_heads_(config.memory_kv_heads),
      retrieval_dim_(config.retrieval_dim / config.retrieval_heads),
      largest_page_(largest_page) {
  CAIRN_CHECK(batch >= 1 && first_chunk >= 0 && largest_page >= 1, "batch {}, first chunk {}, page {}", batch, first_chunk, largest_page);
}

int64_t ChunkMemory::bytes() const {
  int64_t total = 0;
  for (const Page& page : pages_) {
    for (const auto member : Tensors::all()) {
      if ((page.*member).defined()) total += (page.*member).nbytes();
    }
  }
  return total;
}

int64_t ChunkMemory::host_bytes() const {
  int64_t total = 0;
  if (!keys_apart()) return 0;
  for (const Page& page : pages_) total += page.k.nbytes() + page.v.nbytes();
  return total;
}

int64_t ChunkMemory::key_bytes_for(const ModelConfig& config, int64_t batch, int64_t chunks, int64_t element, EightBit eight_bit) {
  return batch * chunks * 2 * config.chunk * config.memory_kv_heads * config.head_dim * (eight_bit.kv ? 1 : element);
}

int64_t ChunkMemory::bytes_for(const ModelConfig& config, int64_t batch, int64_t chunks, int64_t element, EightBit eight_bit) {
  const int64_t landmark =
      eight_bit.landmarks ? config.retrieval_dim + config.retrieval_heads * kScaleBytes : config.retrieval_dim * element;
  const int64_t scales = eight_bit.kv ? 2 * config.chunk * config.memory_kv_heads * kScaleBytes : 0;
  return batch * chunks * (landmark + scales) + key_bytes_for(config, batch, chunks, element, eight_bit);
}

void ChunkMemory::place_keys(KeysOn where) {
  CAIRN_CHECK(pages_.empty(), "{} chunks lie already", chunks_);
  keys_on_ = where;
}

void ChunkMemory::keep_as(EightBit eight_bit) {
  CAIRN_CHECK(pages_.empty(), "{} chunks lie already", chunks_);
  eight_bit_ = eight_bit;
}

bool ChunkMemory::keys_apart() const { return !pages_.empty() && pages_.back().landmarks.is_cuda() && pages_.back().k.is_cpu(); }

ChunkMemory ChunkMemory::with_keys_on_host() const {
  ChunkMemory other = share();
  other.keys_on_ = KeysOn::kHost;
  for (Page& page : other.pages_) {
    if (!page.k.is_cuda()) continue;
    CAIRN_CHECK(!page.one_row, "keys and values of {} rows that share one memory", batch_);
    for (at::Tensor* x : {&page.k, &page.v}) *x = pinned(x->sizes(), *x).copy_(*x, /*non_blocking=*/true);
  }
  return other;
}

template <typename F>
void ChunkMemory::for_pieces(int64_t first, int64_t count, F f) const {
  CAIRN_CHECK(first >= 0 && count >= 0 && first + count <= chunks_, "chunks {} .. {} of {}", first, first + count, chunks_);
  // Pages are few and sorted: the one that holds `first` is the last that begins at or before it.
  size_t p =
      std::upper_bound(pages_.begin(), pages_.end(), first, [](int64_t n, const Page& page) { return n < page.begin; }) - pages_.begin();
  if (p > 0) --p;
  for (int64_t done = 0; done < count; ++p) {
    const Page& page = pages_[p];
    const int64_t offset = first + done - page.begin;
    const int64_t piece = std::min(count - done, page.used - offset);
    if (piece > 0) f(page, offset, done, piece);
    done += std::max<int64_t>(piece, 0);
  }
}

ChunkMemory::Tensors ChunkMemory::kept(const at::Tensor& landmarks, const at::Tensor& k, const at::Tensor& v) const {
  Tensors made{landmarks, k, v, {}, {}, {}};
  const auto round = [](at::Tensor* numbers, at::Tensor* scale) {
    Int8Rows rows = quantize_rows(*numbers);
    *numbers = std::move(rows.numbers), *scale = std::move(rows.scale);
  };
  if (eight_bit_.landmarks) round(&made.landmarks, &made.landmark_scale);
  if (eight_bit_.kv) round(&made.k, &made.k_scale), round(&made.v, &made.v_scale);
  return made;
}

void ChunkMemory::add_page(const Tensors& like, int64_t wanted) {
  // Doubling counts own pages only: a sharer of a long memory that adds a few chunks takes a small page.
  int64_t own = 0;
  for (const Page& page : pages_) own += page.sealed ? 0 : page.capacity;
  const int64_t capacity = std::clamp(std::max(own, wanted), std::min(kSmallestPage, largest_page_), largest_page_);
  Page page;
  const bool apart = keys_on_ != KeysOn::kDevice && like.k.is_cuda();  // such pages are never handed out
  for (const auto member : Tensors::all()) {
    const at::Tensor& its = like.*member;
    if (!its.defined()) continue;
    std::vector<int64_t> sizes(its.sizes().begin(), its.sizes().end());
    sizes[1] = capacity;
    // Zeroed: gather() hands out whole pages, and unused slots must not hold NaN.
    page.*member = apart && (member == &Tensors::k || member == &Tensors::v) ? pinned(sizes, its) : at::zeros(sizes, its.options());
  }
  page.begin = chunks_;
  page.capacity = capacity;
  pages_.push_back(std::move(page));
}

void ChunkMemory::append(const ChunkEncoding& encoding) {
  const int64_t count = encoding.landmarks.size(1);
  CAIRN_CHECK(encoding.landmarks.size(0) == batch_ && encoding.k.size(0) == batch_, "batch {} into {}", encoding.k.size(0), batch_);
  CAIRN_CHECK(encoding.k.size(1) == count * chunk_size_ && encoding.v.size(1) == count * chunk_size_, "{} chunks, {} keys", count,
              encoding.k.size(1));
  const Tensors chunks =
      kept(encoding.landmarks, encoding.k.unflatten(1, {count, chunk_size_}), encoding.v.unflatten(1, {count, chunk_size_}));
  if (chunks_ == 0) came_as_ = encoding.k.scalar_type();
  for (int64_t done = 0; done < count;) {
    if (pages_.empty() || pages_.back().used == pages_.back().capacity) add_page(chunks, count - done);
    Page& page = pages_.back();
    const int64_t piece = std::min(count - done, page.capacity - page.used);
    page.used += piece;
    chunks_ += piece;
    done += piece;
  }
  write(chunks_ - count, chunks);
}

void ChunkMemory::adopt(const at::Tensor& landmarks, const at::Tensor& k, const at::Tensor& v) {
  const int64_t count = landmarks.size(1);
  CAIRN_CHECK(count >= 1 && landmarks.size(0) == batch_ && landmarks.size(2) == heads_ && landmarks.size(3) == retrieval_dim_, "landmarks");
  for (const at::Tensor& x : {k, v}) {
    CAIRN_CHECK(x.dim() == 5 && x.size(0) == batch_ && x.size(1) == count && x.size(2) == chunk_size_ && x.size(3) == kv_heads_ &&
                    x.size(4) == head_dim_,
                "keys and values of {} chunks", count);
  }
  Page page;
  static_cast<Tensors&>(page) = kept(landmarks, k, v);
  if (chunks_ == 0) came_as_ = k.scalar_type();
  if (eight_bit_.kv && keys_on_ != KeysOn::kDevice) {  // new tensors, made where k and v are
    for (at::Tensor* x : {&page.k, &page.v}) {
      if (x->is_cuda()) *x = pinned(x->sizes(), *x).copy_(*x, /*non_blocking=*/true);
    }
  }
  add_sealed(std::move(page));
}

void ChunkMemory::add_sealed(Page page) {
  const int64_t count = page.landmarks.size(1);
  page.one_row = false;
  page.begin = chunks_;
  page.used = page.capacity = count;
  page.sealed = true;
  if (!pages_.empty()) {  // what follows a page may not be written into it any more
    pages_.back().sealed = true;
    pages_.back().capacity = pages_.back().used;
  }
  pages_.push_back(std::move(page));
  chunks_ += count;
}

void ChunkMemory::adopt(const ChunkMemory& other, int64_t first, int64_t count) {
  CAIRN_CHECK(other.eight_bit_.landmarks == eight_bit_.landmarks && other.eight_bit_.kv == eight_bit_.kv, "memories kept differently");
  if (chunks_ == 0) came_as_ = other.came_as_;
  other.for_pieces(first - other.first_chunk_, count, [&](const Page& page, int64_t offset, int64_t, int64_t piece) {
    Page mine;
    for (const auto member : Tensors::all()) {
      if ((page.*member).defined()) mine.*member = (page.*member).narrow(1, offset, piece);
    }
    add_sealed(std::move(mine));
  });
}

void ChunkMemory::truncate(int64_t end_chunk) {
  const int64_t keep = end_chunk - first_chunk_;
  CAIRN_CHECK(keep >= 0 && keep <= chunks_, "keep {} of {} chunks", keep, chunks_);
  while (!pages_.empty() && pages_.back().begin >= keep) pages_.pop_back();
  if (!pages_.empty()) {
    Page& page = pages_.back();
    page.used = keep - page.begin;
    if (page.sealed) page.capacity = page.used;
  }
  chunks_ = keep;
}

ChunkEncoding ChunkMemory::copy(int64_t first, int64_t count) const {
  std::vector<at::Tensor> landmarks, k, v;
  for_pieces(first - first_chunk_, count, [&](const Page& page, int64_t offset, int64_t, int64_t piece) {
    const auto part = [&](const at::Tensor& x) { return x.defined() ? x.narrow(1, offset, piece) : x; };
    landmarks.push_back(exact(part(page.landmarks), part(page.landmark_scale)));
    // To the device through its stream, behind whatever it is still writing there.
    const auto here = [&](const at::Tensor& x, const at::Tensor& scale) {
      return exact(part(x).to(page.landmarks.device(), x.scalar_type(), /*non_blocking=*/true), part(scale)).flatten(1, 2);
    };
    k.push_back(here(page.k, page.k_scale));
    v.push_back(here(page.v, page.v_scale));
  });
  CAIRN_CHECK(!landmarks.empty(), "copy of {} chunks", count);
  return {at::cat(landmarks, 1), at::cat(k, 1), at::cat(v, 1)};
}

void ChunkMemory::overwrite(int64_t first, const ChunkEncoding& encoding) {
  const int64_t count = encoding.landmarks.size(1);
  if (count == 0) return;
  write(first - first_chunk_,
        kept(encoding.landmarks, encoding.k.unflatten(1, {count, chunk_size_}), encoding.v.unflatten(1, {count, chunk_size_})));
}

void ChunkMemory::write(int64_t first, const Tensors& chunks) {
  for_pieces(first, chunks.landmarks.size(1), [&](const Page& page, int64_t offset, int64_t done, int64_t piece) {
    for (const auto member : Tensors::all()) {
      const at::Tensor &from = chunks.*member, &to = page.*member;
      if (from.defined()) to.narrow(1, offset, piece).copy_(from.narrow(1, done, piece), /*non_blocking=*/to.device() != from.device());
    }
  });
}

ChunkMemory ChunkMemory::row(int64_t row) const {
  CAIRN_CHECK(row >= 0 && row < batch_, "row {} of {}", row, batch_);
  ChunkMemory one = share();
  one.batch_ = 1;
  for (Page& page : one.pages_) {
    for (const auto member : Tensors::all()) {
      if ((page.*member).defined()) page.*member = (page.*member).narrow(0, row, 1);
    }
  }
  return one;
}

ChunkMemory ChunkMemory::share() const {
  ChunkMemory other = *this;
  for (Page& page : other.pages_) {
    page.sealed = true;
    page.capacity = page.used;
  }
  return other;
}

int64_t ChunkMemory::page_rest(int64_t first) const {
  int64_t rest = 0;
  for_pieces(first - first_chunk_, 1, [&](const Page& page, int64_t offset, int64_t, int64_t) { rest = page.used - offset; });
  return rest;
}

ChunkMemory ChunkMemory::expand(int64_t rows) const {
  CAIRN_CHECK(batch_ == 1 && rows >= 1, "{} rows of a memory of {}", rows, batch_);
  ChunkMemory all = share();
  all.batch_ = rows;
  for (Page& page : all.pages_) {
    for (const auto member : Tensors::all()) {
      at::Tensor& x = page.*member;
      if (!x.defined()) continue;
      std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
      sizes[0] = rows;
      x = x.expand(sizes);
    }
    page.one_row = rows > 1;
  }
  return all;
}

bool ChunkMemory::gathers_pages() const { return pages_.size() > 1 || pages_[0].one_row || keys_apart() || eight_bit_.kv; }

Selection ChunkMemory::select(const at::Tensor& rq, int64_t top_k, Visibility visibility) const {
  CAIRN_CHECK(rq.size(0) == batch_, "queries of {} rows, memory of {}", rq.size(0), batch_);
  const int64_t n = std::min(top_k, chunks_);
  if (n == 0) {
    return {at::empty({batch_, rq.size(1), heads_, 0}, rq.options().dtype(at::kLong)),
            at::empty({batch_, rq.size(1), heads_, 0}, rq.options().dtype(at::kFloat))};
  }
  Int8Landmarks landmarks;
  StepRecording* const recording = StepRecording::current();
  if (recording != nullptr) ++recording->selections;
  for (const Page& page : pages_) {
    const int64_t count = recording != nullptr ? page.capacity : page.used;
    landmarks.numbers.push_back(page.landmarks.narrow(1, 0, count));
    if (eight_bit_.landmarks) landmarks.scale.push_back(page.landmark_scale.narrow(1, 0, count));
  }
  visibility.first_chunk = first_chunk_;
  Selection selection =
      eight_bit_.landmarks ? select_chunks(rq, landmarks, n, visibility) : select_chunks(rq, landmarks.numbers, n, visibility);
  if (first_chunk_ != 0) selection.index = at::where(selection.index >= 0, selection.index + first_chunk_, selection.index);
  return selection;
}

void ChunkMemory::for_landmarks(const std::function<void(int64_t first, const at::Tensor& landmarks)>& f) const {
  for (const Page& page : pages_) {
    if (page.used == 0) continue;
    const at::Tensor& scale = page.landmark_scale;
    f(first_chunk_ + page.begin, exact(page.landmarks.narrow(1, 0, page.used), scale.defined() ? scale.narrow(1, 0, page.used) : scale));
  }
}

ChunkPages ChunkMemory::chunk_pages() const {
  ChunkPages pages;
  pages.first_chunk = first_chunk_;
  pages.type = came_as_;
  for (const Page& page : pages_) {
    const int64_t count = StepRecording::current() != nullptr ? page.capacity : page.used;
    pages.k.push_back(page.k.narrow(1, 0, count));
    pages.v.push_back(page.v.narrow(1, 0, count));
    if (!eight_bit_.kv) continue;
    pages.k_scale.push_back(page.k_scale.narrow(1, 0, count));
    pages.v_scale.push_back(page.v_scale.narrow(1, 0, count));
  }
  return pages;
}

void ChunkMemory::gather(const at::Tensor& index, at::Tensor* k, at::Tensor* v, at::Tensor* renumbered) const {
  CAIRN_CHECK(index.size(0) == batch_, "index of {} rows, memory of {}", index.size(0), batch_);
  if (pages_.empty()) {
    *k = *v = at::empty({batch_, 0, kv_heads_, head_dim_}, index.options().dtype(at::kFloat));
    *renumbered = index;
    return;
  }
  if (!gathers_pages()) {
    *k = pages_[0].k.flatten(1, 2);
    *v = pages_[0].v.flatten(1, 2);
    *renumbered = first_chunk_ == 0 ? index : at::where(index >= 0, index - first_chunk_, index);
    return;
  }
  if (index.is_cuda()) {
    const ChunkPages pages = chunk_pages();
    if (gather_chunks_supports(pages, index)) {
      const GatheredChunks gathered = gather_chunks(pages, index);
      *k = gathered.k, *v = gathered.v, *renumbered = gathered.index;
      return;
    }
  }
  // Every (row, chunk) pair once, sorted by row, then by chunk: pair = row * chunks + chunk.
  const auto longs = index.options();
  const at::Tensor row = at::arange(batch_, longs).view({batch_, 1}).expand({batch_, index.numel() / batch_}).reshape({-1});
  const at::Tensor flat = index.reshape({-1});
  const at::Tensor used = at::nonzero(flat >= 0).view({-1});
  const at::Tensor pair = row.index_select(0, used) * chunks_ + (flat.index_select(0, used) - first_chunk_);
  auto [unique, inverse, counts] = at::_unique2(pair, /*sorted=*/true, /*return_inverse=*/true);
  const at::Tensor unique_row = unique.div(chunks_, "floor"), unique_chunk = unique - unique_row * chunks_;
  const at::Tensor per_row = at::bincount(unique_row, {}, batch_);
  const int64_t width = std::max<int64_t>(1, unique.numel() == 0 ? 0 : per_row.max().item<int64_t>());
  const at::Tensor rank = at::arange(unique.numel(), longs) - (per_row.cumsum(0) - per_row).index_select(0, unique_row);
  *renumbered = at::full_like(flat, -1).index_copy_(0, used, rank.index_select(0, inverse)).view(index.sizes());

  const at::Tensor slot = unique_row * width + rank;
  const bool padded = batch_ > 1;  // rows that name fewer chunks leave slots that must be numbers
  struct Piece {
    const Page* page;
    at::Tensor to, chunk, row;  // slots, and what of the page goes there
  };
  std::vector<Piece> pieces;
  if (!keys_apart() || eight_bit_.kv) {
    for (const Page& page : pages_) {
      const at::Tensor here = at::nonzero((unique_chunk >= page.begin) & (unique_chunk < page.begin + page.used)).view({-1});
      if (here.numel() == 0) continue;
      pieces.push_back(
          {&page, slot.index_select(0, here), unique_chunk.index_select(0, here) - page.begin, unique_row.index_select(0, here)});
    }
  }
  // What the pages hold of the wanted chunks, [B width, numbers of a chunk].
  const auto collect = [&](at::Tensor Tensors::*member) {
    const at::Tensor& like = pages_[0].*member;
    const std::vector<int64_t> sizes = {batch_ * width, like.numel() / std::max<int64_t>(like.size(0) * like.size(1), 1)};
    at::Tensor out = padded || unique.numel() == 0 ? at::zeros(sizes, like.options()) : at::empty(sizes, like.options());
    for (const Piece& piece : pieces) {
      const at::Tensor& from = piece.page->*member;
      const bool one_row = batch_ == 1 || piece.page->one_row;
      out.index_copy_(0, piece.to,
                      one_row ? from[0].flatten(1).index_select(0, piece.chunk) : from.flatten(2).index({piece.row, piece.chunk}));
    }
    return out;
  };
  at::Tensor numbers[2];
  if (keys_apart()) {  // every chunk once, by the kernel that reads host memory
    const at::Tensor wanted =
        at::full({batch_ * width}, -1, longs).index_copy_(0, slot, unique_chunk + first_chunk_).view({batch_, 1, 1, width});
    const CudaKernels* own = cuda_kernels();
    ChunkPages pages = chunk_pages();
    pages.k_scale.clear(), pages.v_scale.clear();  // scales are on the device: below
    CAIRN_CHECK(own != nullptr && own->gather_supports != nullptr && own->gather_supports(pages, wanted),
                "no kernel reads keys and values in host memory here");
    const GatheredChunks gathered = own->gather_chunks(pages, wanted);
    numbers[0] = gathered.k, numbers[1] = gathered.v;
  } else {
    numbers[0] = collect(&Tensors::k), numbers[1] = collect(&Tensors::v);
  }
  const auto finish = [&](const at::Tensor& x, at::Tensor Tensors::*scale) {
    const at::Tensor chunks = x.view({batch_, width * chunk_size_, kv_heads_, head_dim_});
    return eight_bit_.kv ? dequantize_rows(chunks, collect(scale).view(chunks.sizes().slice(0, 3)), came_as_) : chunks;
  };
  *k = finish(numbers[0], &Tensors::k_scale);
  *v = finish(numbers[1], &Tensors::v_scale);
}

}  // namespace cairn
