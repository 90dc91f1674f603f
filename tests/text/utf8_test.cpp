#include "cairn/text/utf8.h"

#include "text_fixture.h"

namespace cairn {
namespace {

// The definition, read literally: decode the bits, then refuse what is too short a form, a surrogate or too large.
int64_t slow_find_invalid(const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
    const int length = byte(at) < 0x80 ? 1 : (byte(at) >> 5) == 6 ? 2 : (byte(at) >> 4) == 14 ? 3 : (byte(at) >> 3) == 30 ? 4 : 0;
    if (length == 0 || at + length > text.size()) return static_cast<int64_t>(at);
    char32_t c = length == 1 ? byte(at) : byte(at) & (0x7F >> length);
    for (int i = 1; i < length; ++i) {
      if (byte(at + i) >> 6 != 2) return static_cast<int64_t>(at);
      c = c << 6 | (byte(at + i) & 0x3F);
    }
    static constexpr char32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
    if (c < kLeast[length] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return static_cast<int64_t>(at);
    at += length;
  }
  return -1;
}

TEST(Utf8, FindsTheFirstMistakeLikeTheDefinition) {
  Random random(1, 1);
  for (int i = 0; i < 20000; ++i) {
    std::string text = testing::wild_text(&random, random.below(6));
    for (int64_t flips = random.below(3); flips > 0 && !text.empty(); --flips)
      text[random.below(static_cast<int64_t>(text.size()))] = static_cast<char>(random.below(256));
    text.insert(0, random.below(20), 'a');
    if (random.chance(0.3) && !text.empty()) text.pop_back();
    ASSERT_EQ(find_invalid_utf8(text), slow_find_invalid(text));
  }
}

TEST(Utf8, AllTwoAndThreeByteBeginnings) {
  for (int a = 0; a < 256; ++a)
    for (int b = 0; b < 256; ++b)
      for (const char* rest : {"", "\x80", "\x80\x80", "\xBF\xBF"}) {
        const std::string text = std::string{static_cast<char>(a), static_cast<char>(b)} + rest;
        ASSERT_EQ(find_invalid_utf8(text), slow_find_invalid(text)) << a << " " << b;
      }
}

TEST(Utf8, TailAndRepair) {
  EXPECT_EQ(incomplete_utf8_tail("abc"), 0);
  EXPECT_EQ(incomplete_utf8_tail("ab\xE2\x96"), 2);
  EXPECT_EQ(incomplete_utf8_tail("ab\xE2"), 1);
  EXPECT_EQ(incomplete_utf8_tail("\xF0\x9F\x98"), 3);
  EXPECT_EQ(incomplete_utf8_tail("\xF0\x9F\x98\x80"), 0);
  EXPECT_EQ(incomplete_utf8_tail("\x80\x80\x80\x80"), 0);
  EXPECT_EQ(repair_utf8("a\xE2\x96"
                        "b\xC3\xA9"),
            "a\xEF\xBF\xBD\xEF\xBF\xBD"
            "b\xC3\xA9");
  testing::expect_user_error([] { require_utf8("ab\xFFz", "poem.txt", 100); }, {"poem.txt", "102", "0xFF"});
}

}  // namespace
}  // namespace cairn
