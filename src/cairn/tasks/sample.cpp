#include "cairn/tasks/sample.h"

#include <algorithm>
#include <iterator>

#include "cairn/core/error.h"
#include "cairn/tasks/haystack.h"

namespace cairn {
namespace {

// Copies the part of `ids` (standing at `position`) that falls into the window `out` at `begin`.
void overlay(const std::vector<int32_t>& ids, int64_t position, int64_t begin, std::span<int32_t> out) {
  const int64_t from = std::max(position, begin), until = std::min(position + std::ssize(ids), begin + std::ssize(out));
  if (from < until) std::copy(ids.begin() + (from - position), ids.begin() + (until - position), out.begin() + (from - begin));
}

}  // namespace

void read_sample(const EvalSample& sample, int64_t begin, std::span<int32_t> out) {
  const int64_t end = begin + std::ssize(out), tail_begin = sample.length - std::ssize(sample.tail);
  CAIRN_CHECK(begin >= 0 && begin <= end && end <= sample.length, "tokens {} .. {} of {}", begin, end, sample.length);
  const int64_t hay_end = std::min(end, tail_begin);
  if (begin < hay_end) {
    CAIRN_CHECK(sample.haystack != nullptr);
    sample.haystack->read(sample.haystack_begin + begin, out.first(hay_end - begin));
  }
  // Edits are sorted and disjoint, so their ends are sorted too: start at the first one that ends behind `begin`.
  auto edit = std::partition_point(sample.edits.begin(), sample.edits.end(),
                                   [begin](const Edit& e) { return e.position + std::ssize(e.ids) <= begin; });
  for (; edit != sample.edits.end() && edit->position < end; ++edit) overlay(edit->ids, edit->position, begin, out);
  overlay(sample.tail, tail_begin, begin, out);
}

int64_t haystack_window(Random& random, const TokenSource& haystack, int64_t tokens, std::string_view task) {
  if (haystack.size() < tokens) {
    throw UserError(
        "{} needs {} tokens of haystack, but '{}' has only {}; use a longer haystack (\"prose\" never ends) or a shorter length", task,
        tokens, haystack.name(), haystack.size());
  }
  // Endless sources are used up to 2^50 only, so that a position is an exact number in JSON too.
  const int64_t usable = std::min(haystack.size(), std::max(tokens, int64_t{1} << 50));
  return random.below(usable - tokens + 1);
}

}  // namespace cairn
