// What the benchmark programs share: system calls that end the program when they fail.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace skep::bench {

// A benchmark of a call that fails would measure nothing.
template <class T>
T Must(T result, const char* what) {
  if (result == static_cast<T>(-1)) {
    std::perror(what);
    std::exit(1);
  }
  return result;
}

}  // namespace skep::bench
