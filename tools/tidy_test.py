#!/usr/bin/env python3
"""Unit tests of tools/tidy.py: for each rule, what it must reject and what it must let pass."""

import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tidy

LAYERS = """
base:
platform: base
gofer/protocol: base
sentry/mm: base platform
sentry/fs: base sentry/mm
sentry/fs/proc: base
sentry/fs/proc: + sentry/kernel  # a view of tasks
sentry/kernel: base sentry/mm sentry/fs
sentry/boot: base sentry/kernel
runsc-cli: base
runsc-cli: + sentry/boot/control.h  # the control socket
"""


def problems(path, text, mode=0o644, others=(), words=()):
    """What tidy says about one file in an otherwise almost empty repository."""
    with tempfile.TemporaryDirectory() as root:
        for name in (path, *others):
            full = os.path.join(root, name)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w", encoding="utf-8") as file:
                file.write(text if name == path else "")
        os.chmod(os.path.join(root, path), mode)
        report = tidy.Report()
        tidy.check_file(path, root, tidy.parse_layers(LAYERS), set(words), report)
        return report.problems


class TidyTest(unittest.TestCase):
    def rejects(self, path, text, word, **more):
        found = problems(path, text, **more)
        self.assertEqual(len(found), 1, f"{text!r}: {found}")
        self.assertIn(word, found[0])

    def accepts(self, path, text, **more):
        self.assertEqual(problems(path, text, **more), [])


class Layers(TidyTest):
    def test_upward_include(self):
        self.rejects("sentry/mm/a.cc", '#include "sentry/kernel/task.h"\n', "may not include")
        self.rejects("platform/a.cc", '#include "sentry/mm/a.h"\n', "may not include")

    def test_downward_and_own_include(self):
        self.accepts("sentry/mm/a.cc", '#include "base/a.h"\n#include "sentry/mm/a.h"\n')
        self.accepts("sentry/mm/a.cc", "#include <vector>\n")

    def test_the_longest_folder_counts(self):
        self.accepts("sentry/fs/proc/a.cc", '#include "sentry/kernel/task.h"\n')
        self.rejects("sentry/fs/tmpfs/a.cc", '#include "sentry/kernel/task.h"\n', "may not")

    def test_one_file_as_dependency(self):
        self.accepts("runsc-cli/a.cc", '#include "sentry/boot/control.h"\n')
        self.rejects("runsc-cli/a.cc", '#include "sentry/boot/sentry.h"\n', "may not include")

    def test_relative_include(self):
        self.rejects("sentry/mm/a.cc", '#include "a.h"\n', "from the root")

    def test_a_permission_that_nobody_uses(self):
        layers = tidy.parse_layers("base:\nb: base\nc: base b\ntests/d: b\n")
        report = tidy.Report()
        tidy.check_unused_layers(layers, {"b": {"base"}, "c": {"base"}}, report)
        self.assertEqual(len(report.problems), 1)
        self.assertIn("c does not include b", report.problems[0])

    def test_includes_are_noted(self):
        used = {}
        tidy.check_layers("sentry/mm/a.cc", ['#include "base/a.h"'], tidy.parse_layers(LAYERS),
                          tidy.Report(), used)
        self.assertEqual(used, {"sentry/mm": {"base", "base/a.h"}})

    def test_a_library_that_links_upwards(self):
        folders = {"mm": "sentry/mm", "kernel": "sentry/kernel", "base": "base"}
        for text, count in (("skep_library(mm DEPS base)", 0), ("skep_library(mm)", 0),
                            ("skep_library(mm DEPS kernel base)", 1),
                            ("skep_library(mm DEPS base TEST_DEPS kernel)", 0)):
            report = tidy.Report()
            tidy.check_libraries("sentry/mm/CMakeLists.txt", text, tidy.parse_layers(LAYERS),
                                 report, folders)
            self.assertEqual(len(report.problems), count, text)

    def test_malformed_layers(self):
        for text in ("base\n", "a: + b\nb:\n", "a: nowhere\n"):
            with self.assertRaises(ValueError):
                tidy.parse_layers(text)


class Sizes(TidyTest):
    def test_lines(self):
        self.accepts("base/a.cc", "int a();\n" * 600)
        self.rejects("base/a.cc", "int a();\n" * 601, "at most 600")

    def test_columns(self):
        self.accepts("base/a.cc", "// " + "x" * 97 + "\n")
        self.accepts("base/a.cc", "// " + "\u00b5" * 97 + "\n")
        self.rejects("base/a.cc", "// " + "x" * 98 + "\n", "columns")

    def test_functions(self):
        for indent in ("", "  "):
            body = f"{indent}  if (x) {{\n{indent}  }}\n" + f"{indent}  f();\n" * 66
            self.accepts("base/a.cc", f"{indent}int a() {{\n{body}{indent}}}\n")
            longer = f"{body}{indent}  g();\n"
            self.rejects("base/a.cc", f"{indent}int a() const {{\n{longer}{indent}}}\n",
                         "function")
        body = "  f();\n" * 68
        self.accepts("base/a.cc", f"int a()\n    REQUIRES(b) {{\n{body}}}\n")
        self.rejects("base/a.cc", f"int a()\n    REQUIRES(b) {{\n{body}  g();\n}}\n", "function")

    def test_a_signature_of_several_lines(self):
        long = "int F(int a,\n      int b) {\n" + "  G();\n" * 68 + "}\n"
        self.rejects("base/a.cc", long.replace("  G();\n", "  G();\n  H();\n"), "split it")
        self.accepts("base/a.cc", long)

    def test_english(self):
        for text in ("// So many are kept.\n", "// Kept. So few are left.\n", "// Of a file.\n",
                     "// Should it fail, it ends.\n", "// Whose end it is.\n", "// Apart: no.\n"):
            self.rejects("base/a.cc", text, "opens a sentence")
        self.accepts("base/a.cc", "// The size\n// Of it (a word that stands first by chance).\n")
        self.accepts("base/a.cc", 'const char* a = "Of it";  // size, of a file, so many bytes\n')

    def test_white_space(self):
        self.rejects("base/a.cc", "int a(); \n", "white space")
        self.rejects("base/a.cc", "\tint a();\n", "tab")
        self.rejects("base/a.cc", "int a();", "newline")
        self.rejects("base/a.cc", "int a();\n\n", "newline")


class Attacks(TidyTest):
    PATH = "tests/hostile/a_test.cc"

    def test_judged(self):
        for line in ("EXPECT_THAT(Attack([] {}), NoEscape());", "const int status = Attack([] {});",
                     "EXPECT_THAT(\n      Attack([] {}),\n      NoEscape());",
                     "const int status =\n      Attack([] {});"):
            self.accepts(self.PATH, f"TEST(A, B) {{\n  {line}\n}}\n")

    def test_thrown_away(self):
        for line in ("Attack([] {});", "(void)Attack([] {});", "for (;;)\n    Attack([] {});",
                     "int a;\n  Attack(\n      [] {});", "ForgeFrame(x, y);"):
            self.rejects(self.PATH, f"TEST(A, B) {{\n  {line}\n}}\n", "judge its result")

    def test_targets(self):
        attack = "EXPECT_THAT(Attack([] {}), NoEscape());"
        for head in ("for (int a : {1, 2})", "for (int a : kAll)", "for (int a : Judge::kAll)",
                     "const int all[] = {1};\n  for (int a : all)",
                     "ASSERT_FALSE(pages.empty());\n  for (const auto& a : pages)"):
            self.accepts(self.PATH, f"TEST(A, B) {{\n  {head} {attack}\n}}\n")
        for head in ("for (int a : pages)", "for (const int a : Pages())",
                     "EXPECT_FALSE(other.empty());\n  for (int a : pages)"):
            self.rejects(self.PATH, f"TEST(A, B) {{\n  {head} {attack}\n}}\n", "empty()")
        self.accepts(self.PATH, "TEST(A, B) {\n  for (int a : pages) f(a);\n}\n")

    def test_skips(self):
        path = "tests/conformance/a_test.cc"
        self.accepts(path, 'TEST(A, B) {\n  REQUIRE_ROOT();\n  if (x) GTEST_SKIP() << "no";\n}\n')
        self.accepts(path, 'TEST(A, B) {\n  if (x) {\n    GTEST_SKIP() << "no";\n  }\n}\n')
        for line in ("    REQUIRE_ROOT();", "      GTEST_SKIP();"):
            self.rejects(path, f"TEST(A, B) {{\n  f([] {{\n{line}\n  }});\n}}\n", "returns from")


class CommentPaths(TidyTest):
    def names(self, comment):
        report = tidy.Report()
        known = tidy.KnownFiles(["sentry/kernel/task.h", "sentry/mm/map.cc", "docs/STYLE.md"])
        tidy.check_comment_paths("base/a.cc", [comment], known, report)
        return report.problems

    def test_files_of_ours(self):
        for comment in ("// See kernel/task.h.", "// (sentry/mm/map.cc)", "int a;  // STYLE.md",
                        "// Linux: kernel/fork.c, <linux/sched/types.h>", "// NAME_test.cc",
                        "#include \"kernel/none.h\"  // x", "// linux/prctl.h"):
            self.assertEqual(self.names(comment), [], comment)
        for comment in ("// See kernel/none.h.", "// DESIGN.md 4", "int a;  // mm/none.cc",
                        "/* tools/none.py */"):
            self.assertEqual(len(self.names(comment)), 1, comment)


class Try(TidyTest):
    def test_good_places(self):
        for line in ("TRY(f());", "int v = TRY(f());", "const Ref<X> v = TRY(f(1, 2));",
                     "return TRY(f());", "auto [a, b] = TRY(f());", "x.y = TRY(f());",
                     "if (a) TRY(f());", "if (a) return TRY(f());", "else TRY(f());",
                     "this->x_[i] = TRY(f());", "for (auto& e : all) TRY(f(e));",
                     "auto g = [&]() -> Result<int> { return TRY(f()); };", "case kA: TRY(f());",
                     "std::map<int, std::string> v = TRY(f());",
                     "for (int i = 0; i < n; ++i) TRY(f(i));", "const X wanted(TRY(f()));",
                     "auto n = static_cast<size_t>(TRY(f()));",
                     "return static_cast<int>(TRY(f()));"):
            self.accepts("base/a.cc", f"  {line}\n")
        self.accepts("base/a.cc", "  int v =\n      TRY(f());\n")

    def test_bad_places(self):
        for line in ("g(TRY(f()));", "Agg q{1, TRY(f())};", "Agg q = {TRY(f())};",
                     "int v = 1 + TRY(f());", "return g(TRY(f()));", "if (TRY(f())) a();",
                     "a.b(TRY(f()));", "X x(TRY(f()), a);", "X x(a, TRY(f()));",
                     "while (TRY(f()) > 0) a();"):
            self.rejects("base/a.cc", f"  {line}\n", "TRY")
        self.rejects("base/a.cc", "  g(a,\n    TRY(f()));\n", "TRY")

    def test_comments_and_macros(self):
        self.accepts("base/a.cc", "// g(TRY(f()))\n#define MY(x) g(TRY(x))\n")
        self.accepts("base/a.cc", '  Log("g(TRY(f()))");\n')


class Todo(TidyTest):
    def test_form(self):
        self.accepts("base/a.cc", "// TODO(#12): split\n")
        for text in ("// TODO: split\n", "// TODO(me): split\n", "// TODO(#12) split\n"):
            self.rejects("base/a.cc", text, "TODO(#issue)")
        self.rejects("base/a.cc", "// FIXME later\n", "FIXME")
        self.accepts("base/a.cc", 'Make("/tmp/XXXXXX");\n')


class Headers(TidyTest):
    def test_first_line(self):
        self.accepts("base/a.h", "// A thing.\n#pragma once\n")
        self.rejects("base/a.h", "#pragma once\n", "first line")
        self.rejects("base/a.h", "// A thing.\n", "#pragma once")

    def test_slow_headers(self):
        start = "// A thing.\n#pragma once\n"
        self.rejects("base/a.h", start + "#include <fmt/format.h>\n", "one .cc file")
        self.accepts("base/a.cc", "#include <fmt/format.h>\n")


class Bans(TidyTest):
    BAD = {
        "assert": "assert(x);", "std::mutex": "std::mutex mu;", "std::thread": "std::thread t(f);",
        "errno": "if (errno == 3) f();", "thread_local": "thread_local int a;",
        "static": "  static int calls = 0;", "global": "int counter = 0;",
        "volatile": "  volatile int* a = b;", "using namespace": "using namespace std;",
        "throw": "  throw 1;", "delete": "  delete a;", "#ifdef": "#ifdef DEBUG",
        "heavy header": "#include <iostream>", "Boost": "#include <boost/context/fiber.hpp>",
    }

    def test_each_is_found(self):
        self.assertEqual(set(self.BAD), {ban.name for ban in tidy.BANS})
        for name, line in self.BAD.items():
            found = problems("sentry/mm/a.cc", line + "\n")
            self.assertTrue(any(f"{name}: write" in text for text in found), (line, found))

    def test_the_replacement_is_printed(self):
        self.rejects("sentry/mm/a.cc", "  assert(x);\n", "CHECK")

    def test_comments_and_strings_are_no_code(self):
        for line in self.BAD.values():
            if not line.startswith("#"):
                self.accepts("sentry/mm/a.cc", f'// {line}\n/* {line}\n {line} */\nf("{line}");\n')

    def test_look_alikes(self):
        for line in ("static_assert(sizeof(int) == 4);", "  static constexpr int kA = 1;",
                     "  X(const X&) = delete;", "  int host_errno = 0;",
                     "  static Ref<X> Make(int a);",
                     "constexpr int kTable[] = {1, 2};", "const int kA = 1;", "struct X;",
                     "enum class X : int { kA };", "Result<int> X::F(int a) {", "using A = int;",
                     "void operator delete(void*);", "  error.errno = 0;", "class X final : Y {",
                     "inline constexpr int kA = 1;", "#include <cerrno>",
                     "  throw \"two rows have this number\";", "namespace skep {"):
            self.accepts("sentry/mm/a.cc", line + "\n")

    def test_places_where_a_word_is_allowed(self):
        self.accepts("base/host_call.cc", "return errno;\n")
        self.accepts("base/log.cc", "thread_local int a;\n")
        for name in ("a_test.cc", "test_engine.cc", "sched_test_util.cc"):
            self.accepts(f"sentry/mm/{name}", "std::thread t(f);\n")
        self.accepts("tests/conformance/a_test.cc", "EXPECT_EQ(errno, 3);\n")

    def test_an_exception_needs_a_reason(self):
        allow = "// tidy: allow(std::thread)"
        self.accepts("sentry/mm/a.cc", f"{allow} joined at once\nstd::thread t(f);\n")
        self.rejects("sentry/mm/a.cc", f"{allow}\nstd::thread t(f);\n", "std::thread")
        self.rejects("sentry/mm/a.cc", f"{allow} x\n\nstd::thread t(f);\n", "std::thread")


class Documents(TidyTest):
    def test_links(self):
        self.accepts("docs/A.md", "[b](B.md) [w](https://x.y) [h](#h)\n", others=["docs/B.md"])
        self.rejects("docs/A.md", "[b](B.md)\n", "does not exist")

    def test_quoted_paths(self):
        self.accepts("A.md", "`base/a.h` `a/b` `build/release/skep`\n", others=["base/a.h"])
        self.rejects("A.md", "`base/b.h`\n", "does not exist", others=["base/a.h"])
        self.accepts("A.md", "`base/NAME.h`\n", others=["base/a.h"])
        self.accepts("A.md", "`base/b.h` is not yet there\n", others=["base/a.h"])

    def test_identifiers(self):
        self.accepts("ARCHITECTURE.md", "`Task` `Task::Run()`\n", words=["Task", "Run"])
        self.rejects("ARCHITECTURE.md", "`Env`\n", "no source")
        self.accepts("docs/A.md", "`Env`\n")

    def test_changelog(self):
        self.accepts("CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n### Added\n- a\n")
        self.rejects("CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n### New\n", "sections")
        self.rejects("CHANGELOG.md", "# Changelog\n\n## [1.0.0] - 2026-01-31\n", "Unreleased")
        self.rejects("CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n## 1.0\n", "[1.2.3]")


class Guards(TidyTest):
    def test_a_lock_guards_something(self):
        unguarded = "class A {\n  Mutex mutex_{LockRank::kLeaf};\n  int a_;\n};\n"
        self.rejects("base/a.cc", unguarded, "guards nothing")
        self.rejects("base/a.cc", unguarded.replace("Mutex", "sched::SleepLock"), "guards nothing")
        self.accepts("base/a_test.cc", unguarded)
        self.accepts("base/a.cc", unguarded.replace("a_;", "a_ GUARDED_BY(mutex_);"))
        self.accepts("base/a.cc", unguarded.replace("a_;", "F() REQUIRES(mutex_);"))
        other = unguarded.replace("a_;", "a_ GUARDED_BY(other_);")
        self.rejects("base/a.cc", other, "guards nothing")
        self.accepts("base/a.cc", unguarded.replace(
            "  Mutex", "  // tidy: allow(guards) orders writers of a host file\n  Mutex"))


class Files(TidyTest):
    def test_modes(self):
        self.rejects("base/a.cc", "int a();\n", "chmod -x", mode=0o755)
        self.rejects("tools/a.sh", "#!/bin/sh\n", "chmod +x")
        self.accepts("tools/a.sh", "#!/bin/sh\n", mode=0o755)

    def test_names_and_blobs(self):
        self.rejects("base/a b.txt", "x\n", "space")
        self.rejects("base/a.txt", "x" * (tidy.MAX_BYTES + 1), "larger")


if __name__ == "__main__":
    unittest.main()
