// The one place where fmt's functions that are not templates are compiled: Debian has them in a
// shared library only, and the product is static.
#include <fmt/format-inl.h>

// Templates of fmt that its headers declare extern: this library's instances of them.
template FMT_API void fmt::detail::vformat_to(buffer<char>&, string_view,
                                              basic_format_args<FMT_BUFFER_CONTEXT(char)>,
                                              locale_ref);
template FMT_API void fmt::detail::buffer<char>::append(const char*, const char*);
template FMT_API char fmt::detail::decimal_point_impl(locale_ref);
template FMT_API fmt::detail::thousands_sep_result<char> fmt::detail::thousands_sep_impl(
    locale_ref);
