// The code of {fmt}, once. Every other file sees its declarations alone, as if it were linked with libfmt, but nothing has to be installed
// where the program runs; as a header-only library it was compiled in each of two hundred files anew, a third of the whole build.
//
// Compiled twice: in `core` for the system's {fmt}, and in the lowest room with torch (CMakeLists.txt) for the one that LibTorch's
// headers bring along. Their names differ in an inline namespace, so a program holds both.
#include <fmt/format-inl.h>

#include <locale>

FMT_BEGIN_NAMESPACE

// Templates that the headers declare and do not define: for char, what {fmt}'s own src/format.cc instantiates in versions 8 to 12.
namespace detail {
template auto thousands_sep_impl(locale_ref) -> thousands_sep_result<char>;
template auto decimal_point_impl(locale_ref) -> char;
template auto dragonbox::to_decimal(float) noexcept -> dragonbox::decimal_fp<float>;
template auto dragonbox::to_decimal(double) noexcept -> dragonbox::decimal_fp<double>;
#if FMT_VERSION < 90000
template auto format_float(double, int, float_specs, buffer<char>&) -> int;
template auto format_float(long double, int, float_specs, buffer<char>&) -> int;
template auto snprintf_float(double, int, float_specs, buffer<char>&) -> int;
template auto snprintf_float(long double, int, float_specs, buffer<char>&) -> int;
#endif
#if FMT_VERSION >= 100000 && FMT_VERSION < 110000
template void vformat_to(buffer<char>&, string_view, vformat_args<>::type, locale_ref);
#endif
#if FMT_VERSION < 120000
template locale_ref::locale_ref(const std::locale&);
template auto locale_ref::get<std::locale>() const -> std::locale;
template void buffer<char>::append(const char*, const char*);
#endif
}  // namespace detail
#if FMT_VERSION >= 120000
template locale_ref::locale_ref(const std::locale&);
template auto locale_ref::get<std::locale>() const -> std::locale;
#endif

FMT_END_NAMESPACE
