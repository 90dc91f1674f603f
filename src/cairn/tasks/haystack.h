// Windows of a haystack.
#pragma once

#include <cstdint>
#include <string_view>

#include "cairn/core/random.h"
#include "cairn/text/token_source.h"

namespace cairn {

// Start of a uniform random window of `tokens` tokens. UserError naming both numbers if the haystack is shorter: text is never wrapped
// around silently.
int64_t haystack_window(Random& random, const TokenSource& haystack, int64_t tokens, std::string_view task);

}  // namespace cairn
