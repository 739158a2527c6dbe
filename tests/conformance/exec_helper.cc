// A program for exec tests, built as a static PIE and as a dynamic executable.
#include <cstdio>

int main(int argc, char** argv, char** env) {
  std::printf("argc %d last %s env %s\n", argc, argv[argc - 1], env[0] != nullptr ? env[0] : "");
  return 42;
}
