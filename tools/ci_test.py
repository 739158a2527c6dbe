#!/usr/bin/env python3
"""Tests of tools/ci.py: the table, the slices, and that a failure is a failure."""

import io
import unittest

import ci

TABLE = """
# comment
one   | 1   | each    | true
side  | 2   | beside  | echo from the side; exit 3
cut   | 3.5 | slice/3 | test "$SLICE/$SLICES" = 1/3
side  | 0   | wait    |
long  | 9   | all     | true
"""


def run(text, number=0, everything=False):
    runner = ci.Runner(io.StringIO())
    ci.run_parts(ci.parse(text), number, everything, runner)
    return {outcome.name: outcome.code for outcome in runner.outcomes}, runner.out.getvalue()


class TableTest(unittest.TestCase):
    def test_reads_every_column(self):
        cut = ci.parse(TABLE)[2]
        self.assertEqual((cut.name, cut.minutes, cut.when, cut.slices), ("cut", 3.5, "slice", 3))

    def test_refuses_what_it_does_not_know(self):
        for line in ("a | 1 | sometimes | true", "a | 1 | each", "a | 1 | each |",
                     "a | 0 | wait |", "a | x | each | true", "a | 1 | slice/0 | true"):
            with self.subTest(line), self.assertRaises(ValueError):
                ci.parse(line)

    def test_the_real_table_is_one(self):
        with open(ci.os.path.join(ci.TOP, "tools/ci.txt"), encoding="utf-8") as file:
            parts = ci.parse(file.read())
        self.assertGreater(len(parts), 5)
        # Ten commits in a row cover all that is cut into slices.
        self.assertLessEqual(max(part.slices for part in parts), 10)
        each = sum(p.minutes / p.slices for p in parts if p.when in ("each", "slice"))
        self.assertLessEqual(each, 40)


class RunTest(unittest.TestCase):
    def test_slices_follow_the_commit(self):
        for number in range(6):
            codes, _ = run(TABLE, number)
            name = f"cut (slice {number % 3 + 1} of 3)"
            self.assertEqual(codes[name], 0 if number % 3 == 1 else 1)
            self.assertNotIn("long", codes)

    def test_all_runs_everything(self):
        codes, _ = run(TABLE, everything=True)
        self.assertEqual(len([name for name in codes if name.startswith("cut")]), 3)
        self.assertIn("long", codes)

    def test_what_runs_beside_is_heard_and_judged(self):
        codes, text = run(TABLE)
        self.assertEqual(codes["side"], 3)
        self.assertIn("from the side", text)

    def test_a_failure_does_not_hide_the_rest(self):
        codes, _ = run("a | 1 | each | exit 7\nb | 1 | each | true")
        self.assertEqual(codes, {"a": 7, "b": 0})

    def test_without_a_build_nothing_follows(self):
        codes, _ = run("build | 1 | each | false\nb | 1 | each | true")
        self.assertEqual(codes, {"build": 1})


if __name__ == "__main__":
    unittest.main()
