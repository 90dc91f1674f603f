// Landmark selection on a GPU: which kernel, workspace, launches. The kernels: few_rows.cuh, many_rows.cuh, merge.cu.
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "cairn/core/error.h"
#include "cairn/ops/cuda/hopper.h"
#include "cairn/ops/cuda/kernels.h"
#include "cairn/ops/cuda/launch.h"
#include "cairn/ops/select/step_launch.h"
#include "cairn/ops/step/kernels.h"

namespace cairn {
namespace {

using select_cuda::kFewRows;
using select_cuda::Params;

constexpr int64_t kAlignment = 16;  // bytes that a load takes
constexpr int64_t kMostPasses = 4;  // of few rows, where tensor cores cannot serve: kFewRows rows each
constexpr int64_t kMostGroups = 65535;
constexpr int64_t kFewBlocks = 2;  // blocks a multiprocessor, few rows

bool is_aligned(const at::Tensor& x) {
  const int64_t size = x.element_size();
  if (x.size(3) > 1 && x.stride(3) != 1) return false;
  if (reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kAlignment != 0) return false;
  for (int64_t d = 0; d < 3; ++d) {
    if (x.size(d) > 1 && x.stride(d) * size % kAlignment != 0) return false;
  }
  return true;
}

bool is_type(const at::Tensor& x) { return x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16; }

select_cuda::Type type_of(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat ? select_cuda::Type::kFloat : select_cuda::Type::kBFloat16;
}

bool one_memory(const at::Tensor& rq, const std::vector<at::Tensor>& pages) {
  return rq.size(0) > 1 && std::all_of(pages.begin(), pages.end(), [](const at::Tensor& page) { return page.stride(0) == 0; });
}

enum class Way { kNone, kFew, kMany };

Way choose(const at::Tensor& rq, const std::vector<at::Tensor>& pages, int64_t n) {
  if (!runs_kernels(rq) || !is_type(rq) || pages.empty() || n < 1 || n > select_cuda::kMostChosen) return Way::kNone;
  const int64_t B = rq.size(0), L = rq.size(1), Q = rq.size(2), width = rq.size(3);
  const auto type = pages[0].scalar_type();
  if (!is_type(pages[0]) || width < 1 || width > select_cuda::kMostWidth || width * pages[0].element_size() % kAlignment != 0)
    return Way::kNone;
  for (const at::Tensor& page : pages) {
    if (page.scalar_type() != type || page.device() != rq.device() || (page.numel() > 0 && !is_aligned(page))) return Way::kNone;
  }
  if (static_cast<int64_t>(pages.size()) > select_cuda::kMostParts) return Way::kNone;  // a list of each launch, at least
  const bool shared = one_memory(rq, pages);
  const int64_t rows = shared ? B * L : L, groups = shared ? Q : B * Q;
  if (rows < 1 || groups < 1 || groups * kMostPasses > kMostGroups) return Way::kNone;
  if (rows <= kFewRows) return Way::kFew;
  if (rq.scalar_type() == at::kBFloat16 && type == at::kBFloat16 && select_cuda::many_rows_fit(n, rq.get_device())) return Way::kMany;
  return rows <= kMostPasses * kFewRows ? Way::kFew : Way::kNone;
}

bool supports(const at::Tensor& rq, const std::vector<at::Tensor>& pages, int64_t n, const Visibility&) {
  return choose(rq, pages, n) != Way::kNone;
}

// 8-bit landmarks: few rows of bf16, pages contiguous inside a row.
bool supports_int8(const at::Tensor& rq, const Int8Landmarks& landmarks, int64_t n) {
  if (!runs_kernels(rq) || rq.scalar_type() != at::kBFloat16 || landmarks.numbers.empty() || n < 1 || n > select_cuda::kMostChosen)
    return false;
  const int64_t B = rq.size(0), L = rq.size(1), Q = rq.size(2), width = rq.size(3);
  if (width < 1 || width > select_cuda::kMostWidth || width % kAlignment != 0) return false;
  for (size_t i = 0; i < landmarks.numbers.size(); ++i) {
    const at::Tensor &page = landmarks.numbers[i], &scale = landmarks.scale[i];
    if (page.scalar_type() != at::kChar || scale.scalar_type() != at::kBFloat16 || page.device() != rq.device() ||
        scale.device() != rq.device())
      return false;
    if (scale.sizes() != page.sizes().slice(0, 3)) return false;
    if (page.numel() == 0) continue;
    if (!is_aligned(page) || page.stride(3) != 1 || (Q > 1 && (page.stride(2) != width || scale.stride(2) != 1)) ||
        (page.size(1) > 1 && (page.stride(1) != Q * width || scale.stride(1) != Q)) || (B > 1 && scale.stride(0) * width != page.stride(0)))
      return false;
  }
  if (static_cast<int64_t>(landmarks.numbers.size()) > select_cuda::kMostParts) return false;
  const bool shared = one_memory(rq, landmarks.numbers);
  const int64_t rows = shared ? B * L : L, groups = shared ? Q : B * Q;
  return rows >= 1 && rows <= kMostPasses * kFewRows && groups >= 1 && groups * kMostPasses <= kMostGroups;
}

bool by_tensor_cores(const Params& p) {
  return p.query_type == select_cuda::Type::kBFloat16 && p.landmark_type == select_cuda::Type::kBFloat16;
}

// A launch: with up to kMostPages pages in the parameters, or with a table beside them.
struct Launch {
  Params p;
  std::unique_ptr<select_cuda::PageTable> table;
  std::unique_ptr<select_cuda::Int8Table> int8;
};

// Cuts the pages into launches and ends them at `reach`, the chunks that the last row sees. scale: of 8-bit pages.
std::vector<Launch> with_pages(const Params& shape, const std::vector<at::Tensor>& pages, const std::vector<at::Tensor>* scale,
                               int64_t reach, Way way) {
  const bool long_tables = way == Way::kFew && by_tensor_cores(shape) && pages.size() > select_cuda::kMostPages && scale == nullptr;
  const int most = long_tables || scale != nullptr ? select_cuda::kMostTablePages : select_cuda::kMostPages;
  const int64_t tile = select_cuda::few_rows_tile(shape.query_type, shape.landmark_type, shape.width);
  std::vector<Launch> launches;
  int64_t begin = 0;
  for (size_t i = 0; i < pages.size(); ++i) {
    const at::Tensor& page = pages[i];
    const int64_t count = std::min(page.size(1), reach - begin);
    if (count <= 0) continue;
    if (launches.empty() || launches.back().p.page_count == most) {
      launches.push_back({shape, long_tables ? std::make_unique<select_cuda::PageTable>() : nullptr,
                          scale != nullptr ? std::make_unique<select_cuda::Int8Table>() : nullptr});
      launches.back().p.begin = begin;
    }
    Params& p = launches.back().p;
    if (scale != nullptr) {
      launches.back().int8->pages[p.page_count++] = {page.const_data_ptr<int8_t>(),
                                                     static_cast<const uint16_t*>((*scale)[i].const_data_ptr()),
                                                     begin,
                                                     page.stride(0),
                                                     static_cast<int32_t>(count),
                                                     static_cast<int32_t>(p.tiles)};
    } else {
      select_cuda::Page* const table = long_tables ? launches.back().table->pages : p.pages;
      table[p.page_count++] = {page.const_data_ptr(), begin, count, page.stride(0), page.stride(1), page.stride(2), p.tiles};
    }
    p.tiles += (count + tile - 1) / tile;
    begin += count;
    p.end = begin;
  }
  if (way == Way::kMany) {
    for (Launch& launch : launches) launch.p.tiles = 0;
  }
  return launches;
}

Selection select_by(const at::Tensor& rq_in, const std::vector<at::Tensor>& pages, const std::vector<at::Tensor>* scale, int64_t n,
                    const Visibility& visibility, Way way) {
  const c10::cuda::CUDAGuard guard(rq_in.device());
  CAIRN_CHECK(way != Way::kNone, "no kernel for this selection");
  const at::Tensor rq = is_aligned(rq_in) ? rq_in : rq_in.contiguous();
  const int64_t B = rq.size(0), L = rq.size(1), Q = rq.size(2);
  Params shape = {};
  shape.query = rq.const_data_ptr();
  shape.query_batch_stride = rq.stride(0), shape.query_row_stride = rq.stride(1), shape.query_head_stride = rq.stride(2);
  shape.batch = B, shape.rows = L, shape.heads = Q, shape.width = rq.size(3);
  shape.position = visibility.first_position + (visibility.exclude_window > 0 ? 1 - visibility.exclude_window : 0);
  shape.chunk = visibility.chunk, shape.first_chunk = visibility.first_chunk;
  for (const at::Tensor& page : pages) {
    CAIRN_CHECK(page.dim() == 4 && page.size(0) == B && page.size(2) == Q && page.size(3) == rq.size(3),
                "rq [{},{},{},{}], landmarks [{},{},{},{}]", B, L, Q, rq.size(3), page.size(0), page.size(1), page.size(2), page.size(3));
    shape.chunks += page.size(1);
  }
  shape.n = n;
  shape.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(rq.size(3))));
  shape.query_type = type_of(rq), shape.landmark_type = scale != nullptr ? select_cuda::Type::kBFloat16 : type_of(pages[0]);
  shape.shared = one_memory(rq, pages);
  const int64_t bound = std::max<int64_t>(shape.position + L - 1, 0) / shape.chunk - shape.first_chunk;
  // A step that is recorded will run at later positions: all pages belong to it, and the kernel asks the device where it is.
  StepRecording* const recording =
      way == Way::kFew && by_tensor_cores(shape) && L == 1 && visibility.exclude_window == 0 ? StepRecording::current() : nullptr;
  if (recording != nullptr) ++recording->lasting_selections;
  const int64_t reach = recording != nullptr ? shape.chunks : std::clamp<int64_t>(bound, 0, shape.chunks);

  Selection out;
  const auto longs = rq.options().dtype(at::kLong), floats = rq.options().dtype(at::kFloat);
  if (reach == 0) {
    out.index = at::full({B, L, Q, n}, -1, longs);
    out.score = at::zeros({B, L, Q, n}, floats);
    return out;
  }
  out.index = at::empty({B, L, Q, n}, longs);
  out.score = at::empty({B, L, Q, n}, floats);
  std::vector<Launch> launches = with_pages(shape, pages, scale, reach, way);

  // How many lists each launch makes of a row: enough blocks to fill the device.
  const int64_t group_rows = shape.shared ? B * L : L, groups = shape.shared ? Q : B * Q, device_blocks = multiprocessors(rq);
  const int64_t tile_rows = way == Way::kMany ? select_cuda::many_rows_tile(n) : kFewRows;
  const int64_t blocks = groups * ((group_rows + tile_rows - 1) / tile_rows);
  int64_t parts = 0;
  const int64_t most = std::max<int64_t>(select_cuda::kMostParts / static_cast<int64_t>(launches.size()), 1);
  for (Launch& launch : launches) {
    Params& p = launch.p;
    if (way == Way::kFew) {
      p.launch_parts = std::clamp<int64_t>((kFewBlocks * device_blocks + blocks - 1) / blocks, 1, p.tiles);
    } else {
      constexpr int64_t kLeastChunks = 128;  // a part should outweigh its list
      p.launch_parts = std::clamp<int64_t>(select_cuda::many_rows_blocks(n) * device_blocks / blocks, 1,
                                           std::max<int64_t>((p.end - p.begin) / kLeastChunks, 1));
    }
    p.launch_parts = std::min(p.launch_parts, most);
    p.first_part = parts;
    parts += p.launch_parts;
  }
  const bool ahead = StepRecording::runs_ahead() && runs_hopper(rq), tensors = by_tensor_cores(shape);
  const int64_t* const position = recording != nullptr ? recording->position().const_data_ptr<int64_t>() : nullptr;
  at::Tensor lists;
  if (parts > 1) lists = at::empty({B * L * Q, parts, n}, longs);
  for (Launch& launch : launches) {
    Params& p = launch.p;
    p.parts = parts;
    p.partial = lists.defined() ? reinterpret_cast<uint64_t*>(lists.mutable_data_ptr<int64_t>()) : nullptr;
    p.index = out.index.mutable_data_ptr<int64_t>();
    p.score = out.score.mutable_data_ptr<float>();
    if (scale != nullptr) {
      check_launch(launch_few_rows_int8(p, *launch.int8, position, ahead, current_stream()));
    } else if (way == Way::kFew && tensors) {
      check_launch(launch_few_rows_tensor(p, launch.table.get(), position, ahead, current_stream()));
    } else {
      check_launch(way == Way::kFew ? launch_few_rows(p, current_stream()) : launch_many_rows(p, current_stream()));
    }
  }
  if (lists.defined()) check_launch(select_cuda::launch_merge(launches.front().p, ahead, current_stream()));
  return out;
}

Selection select(const at::Tensor& rq, const std::vector<at::Tensor>& pages, int64_t n, const Visibility& visibility) {
  return select_by(rq, pages, nullptr, n, visibility, choose(rq, pages, n));
}

Selection select_int8(const at::Tensor& rq, const Int8Landmarks& landmarks, int64_t n, const Visibility& visibility) {
  return select_by(rq, landmarks.numbers, &landmarks.scale, n, visibility, supports_int8(rq, landmarks, n) ? Way::kFew : Way::kNone);
}

const bool registered_int8 = register_step_kernels([](StepKernels* table) {
  table->select_int8_supports = supports_int8;
  table->select_int8 = select_int8;
});
const bool registered = register_cuda_kernels([](CudaKernels* table) {
  table->select_supports = supports;
  table->select_chunks = select;
});

}  // namespace
}  // namespace cairn
