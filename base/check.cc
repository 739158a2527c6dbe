#include "base/check.h"

#include <unistd.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/last_words.h"
#include "base/log.h"

namespace skep {

void CheckFailed(const char* file, int line, const char* what) {
  char text[512];
  int n = snprintf(text, sizeof text, "skep: CHECK failed at %s:%d: %s\n", file, line, what);
  if (n > 0) {
    size_t size = n < static_cast<int>(sizeof text) ? static_cast<size_t>(n) : sizeof text - 1;
    SayLastWords({text, size});
    WriteEmergency(text, size);
  }
  EndByOwnFault();
}

}  // namespace skep
