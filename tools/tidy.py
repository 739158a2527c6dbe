#!/usr/bin/env python3
"""The style of docs/STYLE.md as a program: layers, sizes, forms and banned words.

usage: tools/tidy.py [--root DIR] [FILE...]      (all files of the repository by default)

A line may be excepted from the banned words by a comment that says why, on the line or above it:
    // tidy: allow(std::thread) joined before the first fiber starts
"""

import argparse
import os
import re
import stat
import subprocess
import sys

MAX_LINES = 600
MAX_COLUMNS = 100
MAX_FUNCTION = 70
MAX_BYTES = 512 * 1024
# Files that are tables and may be longer than MAX_LINES, with the reason.
LONG_FILES = {
    "LICENSE": "the text of Apache-2.0",
}
# Programs that guests run: their here-documents cannot be wrapped.
UNWRAPPED = ("tests/e2e/cases/",)
CPP = (".cc", ".h")
CODE = (".cc", ".h", ".S", ".py", ".sh")
SENTRY_SIDE = ("base/", "jail/", "platform/", "gofer/", "sentry/")
PRODUCT = SENTRY_SIDE + ("runtime/", "runsc-cli/")


def is_test(path):
    return path.startswith(("tests/", "bench/")) or bool(
        re.search(r"/test_\w+\.\w+$|_test\.cc$|_test_util\.\w+$|/fake_\w+\.\w+$", path))


class Ban:
    """A pattern that code may not contain, what to write instead, and where the rule holds."""

    def __init__(self, name, pattern, instead, where=PRODUCT, except_in=(), tests=False):
        self.name, self.pattern, self.instead = name, re.compile(pattern), instead
        self.where, self.except_in, self.tests = where, tuple(except_in), tests

    def applies(self, path):
        if not self.tests and is_test(path):
            return False
        return path.startswith(self.where) and not path.startswith(self.except_in)


EVERYWHERE = PRODUCT + ("tests/", "bench/")
NAMESPACE_SCOPE = (
    r"^(?!const\b|constexpr\b|struct\b|class\b|enum\b|union\b|using\b|namespace\b|template\b|"
    r"typedef\b|friend\b|public\b|private\b|protected\b|extern\b|return\b|constinit const\b|"
    r"static const\b|inline const|static constexpr\b|case\b|default\b|concept\b|asm\b|goto\b)"
    r"(?:(?:static|inline|constinit|alignas\(\w+\))\s+)*[A-Za-z_][\w:]*(?:<[^()]*>)?[ *&]+"
    r"\w+(?:\[[^\]]*\])*\s*(?:=[^=]|;|\{)")
BANS = (
    Ban("assert", r"\bassert\s*\(", "CHECK or DCHECK (base/check.h)", EVERYWHERE, tests=True),
    Ban("std::mutex", r"\bstd::(?:recursive_|shared_|timed_)?mutex\b|\bstd::(?:lock_guard|"
        r"unique_lock|scoped_lock|shared_lock|condition_variable\w*)\b|\bpthread_(?:mutex|cond)_",
        "Mutex (base/mutex.h), SleepLock or WaitQueue (sentry/sched)"),
    Ban("std::thread", r"\bstd::(?:j?thread|async)\b|\bpthread_create\b",
        "a fiber or sched::Offload (sentry/sched)", except_in=("sentry/sched/",)),
    Ban("errno", r"(?<![\w.>])errno\b", "a host:: wrapper (base/host_call.h)",
        except_in=("base/host_call.cc", "platform/stub/")),
    Ban("thread_local", r"\bthread_local\b", "a field of Kernel, Task or Worker",
        except_in=("base/", "sentry/sched/", "sentry/arena/")),
    Ban("static", r"^\s+static\s+(?!const\b|constexpr\b|inline\b)[\w:<>,*& ]+?[ *&]\w+"
        r"(?:\[[^\]]*\])*\s*(?:=[^=]|;|\{)", "state that hangs off Kernel (the arena rule)",
        except_in=("platform/stub/", "sentry/arena/")),
    Ban("global", NAMESPACE_SCOPE, "state that hangs off Kernel (the arena rule)", ("sentry/",),
        except_in=("sentry/arena/", "sentry/sched/")),
    Ban("volatile", r"\bvolatile\b(?!\s*[\"(])", "std::atomic",
        except_in=("platform/",)),
    Ban("using namespace", r"\busing\s+namespace\b", "the names you need, one using each"),
    # Throwing a text is how a consteval function refuses to compile.
    Ban("throw", r"\bthrow\b(?! \"\")|\bcatch\s*\(", "Result<T> and TRY", SENTRY_SIDE),
    Ban("delete", r"(?<!= )(?<!operator )\bdelete\b(?!\s*;)", "Ref<T> or std::unique_ptr",
        except_in=("base/ref.h", "sentry/arena/", "sentry/sched/")),
    Ban("#ifdef", r"^\s*#\s*ifn?def\b", "if constexpr, or base/missing_defs.h", except_in=(
        "base/", "platform/", "sentry/arena/", "sentry/sched/")),
    Ban("heavy header", r"^\s*#\s*include\s*<(?:iostream|regex|ranges|format|locale)>",
        "fmt in .cc files, plain loops, hand-written scanning"),
    Ban("Boost", r"^\s*#\s*include\s*<boost/", "sentry/sched/fiber.h",
        except_in=("sentry/sched/",)),
)
HEADER_BANS = (
    Ban("slow header", r"^\s*#\s*include\s*<(?:nlohmann|CLI|fmt)/", "it in one .cc file",
        EVERYWHERE, tests=True),
)


class Report:
    def __init__(self):
        self.problems = []

    def add(self, path, line, text):
        self.problems.append(f"{path}:{line}: {text}")


def strip_cpp(text):
    """The same lines with comments, strings and character constants blanked out."""
    token = re.compile(
        r'R"([^ ()\\\t\n]{0,16})\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<![\w])\'(?:\\.|[^\'\\\n])+\''
        r"|//[^\n]*|/\*.*?\*/", re.S)

    def blank(match):
        found = match.group(0)
        if found.startswith(('"', "R")):
            return '""' + "\n" * found.count("\n")
        if found.startswith("'"):
            return "' '"
        return "\n" * found.count("\n")

    return token.sub(blank, text).split("\n")


# --- layers ---------------------------------------------------------------------------------------

def parse_layers(text):
    """{folder: set of folders and files it may include}; raises ValueError on a malformed line."""
    layers = {}
    for number, raw in enumerate(text.split("\n"), 1):
        line, _, reason = raw.partition("#")
        if not line.strip():
            continue
        folder, colon, right = line.partition(":")
        words = right.split()
        if not colon:
            raise ValueError(f"{number}: expected FOLDER: DEPENDENCY ...")
        if words[:1] == ["+"]:
            if not reason.strip():
                raise ValueError(f"{number}: an exception needs a reason")
            words = words[1:]
        layers.setdefault(folder.strip(), set()).update(words)
    for folder, dependencies in layers.items():
        for dependency in dependencies:
            if dependency not in layers and not dependency.endswith(".h"):
                raise ValueError(f"{folder}: '{dependency}' has no line of its own")
    return layers


def layer_of(path, layers):
    found = ""
    for folder in layers:
        if path.startswith(folder + "/") and len(folder) > len(found):
            found = folder
    return found


def check_layers(path, lines, layers, report, used=None):
    """Notes in `used` what each folder includes: {folder: set of folders and files}."""
    own = layer_of(path, layers)
    for number, line in enumerate(lines, 1):
        match = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
        if not match:
            continue
        target = match.group(1)
        if "/" not in target:
            if os.path.dirname(path):
                report.add(path, number, f'"{target}": write the path from the root')
            continue
        folder = layer_of(target, layers)
        if not own or not folder or folder == own:
            continue
        if used is not None:
            used.setdefault(own, set()).update((folder, target))
        if folder not in layers[own] and target not in layers[own]:
            report.add(path, number, f"{own} may not include {folder} (tools/layers.txt)")


def check_unused_layers(layers, used, report):
    """What nobody includes need not be allowed."""
    for folder, allowed in sorted(layers.items()):
        if folder.startswith("tests/"):  # which reach everywhere
            continue
        for word in sorted(allowed - used.get(folder, set())):
            report.add("tools/layers.txt", 1, f"{folder} does not include {word}: take it out")


def below(folder, layers):
    """All that a folder may include, and what that includes, and so on."""
    found, todo = set(), [folder]
    while todo:
        word = todo.pop()
        if word not in found:
            found.add(word)
            todo.extend(layers.get(layer_of(word, layers) if word.endswith(".h") else word, ()))
    return found | {layer_of(word, layers) for word in found}


def check_libraries(path, text, layers, report, folder_of):
    """A library links what lies below its folder. `folder_of`: {library: folder}."""
    own = layer_of(path, layers)
    for match in re.finditer(r"skep_library\((\w+)[^)]*?\bDEPS\s+([^)]*)\)", text):
        for word in re.split(r"TEST_DEPS", match.group(2))[0].split():
            folder = layer_of(folder_of.get(word, "") + "/", layers)
            if folder and folder not in below(own, layers):
                report.add(path, 1, f"{match.group(1)} links {word}, which is not below {own}")


# --- forms ----------------------------------------------------------------------------------------

def check_size(path, lines, report):
    count = len(lines) - 1
    if count > MAX_LINES and path not in LONG_FILES:
        report.add(path, count, f"{count} lines, at most {MAX_LINES}: split it")


def check_columns(path, lines, report):
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS and "http" not in line and not line.startswith("#include"):
            report.add(path, number, f"{len(line)} columns, at most {MAX_COLUMNS}")


def check_functions(path, code, report):
    """Counts from a line that opens a function to the brace that closes it, at one indentation."""
    opens = re.compile(r"^( {0,4})(?!if\b|for\b|while\b|switch\b|else\b|do\b|namespace\b|class\b|"
                       r"struct\b|enum\b|union\b|extern\b|return\b|[}#])\S.*\).*\{$", re.S)
    start, indent = 0, ""
    for number, line in enumerate(code, 1):
        if start == 0:
            if not line.endswith("{"):
                continue
            # The parameters may stand on several lines.
            first = number
            while first > 1 and not balanced("".join(code[first - 1:number])):
                first -= 1
            match = opens.match("\n".join(code[first - 1:number]))
            if match:
                start, indent = number, match.group(1)
                # A constructor's initializers, or what a function requires: a line of its own.
                if line.lstrip().startswith((":", "REQUIRES(")):
                    indent = indent[4:]
        elif re.match(indent + r"\}", line):
            if number - start + 1 > MAX_FUNCTION:
                report.add(path, start, f"a function of {number - start + 1} lines, at most "
                                        f"{MAX_FUNCTION}: split it")
            start = 0


def check_whitespace(path, lines, report):
    for number, line in enumerate(lines, 1):
        if line.rstrip() != line:
            report.add(path, number, "white space at the end of the line")
        if "\t" in line and path.endswith(CPP):
            report.add(path, number, "a tab: write spaces")
    if lines[-1] != "" or (len(lines) > 1 and lines[-2] == ""):
        report.add(path, len(lines), "the file should end in exactly one newline")


def balanced(text):
    return text.count("(") == text.count(")")


def check_try(path, code, report):
    """TRY is a whole statement, a whole initializer or the operand of return, and nothing else."""
    before_ok = re.compile(r"^\s*(?:[\w:<>,&*\[\]().\->{} ]+ = |return )?$")
    direct = re.compile(r"^\s*(?!return\b)(?:const )?[\w:]+(?:<[\w:<>,*& ]+>)?[&*]? \w+[({]$")
    control = re.compile(r"^\s*(?:\} )?(?:else )?(?:(?:if|while|for)\b.*\) |else |case [\w:]+: )")
    cast = re.compile(r"(?:static_cast|reinterpret_cast)<[^()]*>\($")
    previous = ";"
    for number, line in enumerate(code, 1):
        if re.match(r"\s*#", line):
            continue
        for match in re.finditer(r"(?<!\w)TRY\(", line):
            before = control.sub("", line[:match.start()])
            before = re.sub(r"^.*[;}] (?=\S)", "", before)
            before = re.sub(r"^.*(?:[)\]]|mutable|->[^{]*) ?\{ ", "", before)
            before = cast.sub("", before)
            ok = before_ok.match(before) and balanced(before) and before.count("{") == 0
            ok = ok or (direct.match(before) and re.search(r"\)[)}];$", line))
            if ok and not before.strip():
                ok = line[:match.start()].strip() or previous.endswith(
                    (";", "{", "}", " =", ":", ")", "else", "return", "do"))
            if not ok:
                report.add(path, number, "TRY is a statement, an initializer or what is returned")
        if line.strip():
            previous = line.rstrip()


def check_attacks(path, code, report):
    """Hostile tests judge every attack, and assert that there was something to attack."""
    previous, test, body = ";", 0, []
    for number, line in enumerate(code, 1):
        bare = re.match(r"\s*(?:\(void\) ?|static_cast<void>\()?(?:Attack|ForgeFrame)\(", line)
        if bare and (previous.endswith((";", "{", "}", ":", "else", "do")) or
                     re.search(r"\b(?:for|if|while) \(.*\)$", previous)):
            report.add(path, number, "an attack as a statement: judge its result, EXPECT_THAT(")
        if re.match(r"TEST(?:_F|_P)?\(", line):
            test, body = number, []
        body.append(line)
        if test and line == "}":
            check_targets(path, test, body, report)
            test = 0
        if line.strip():
            previous = line.rstrip()


def check_targets(path, number, body, report):
    """A loop over what was found must not pass because nothing was found."""
    text = "\n".join(body)
    if not re.search(r"\b(?:Attack|ForgeFrame)\(", text):
        return
    for match in re.finditer(r"^  for \([^;()]* : ([A-Za-z_][\w:.]*)(\(?)", text, re.M):
        name = match.group(1)
        fixed = re.search(r"(?:\b" + re.escape(name) + r"\[\w*\] = |\} " + re.escape(name) +
                          r"\[\] = )", text) or "::k" in name or re.match(r"k[A-Z]", name)
        if match.group(2) or not (fixed or f"ASSERT_FALSE({name}.empty())" in text):
            line = number + text[:match.start()].count("\n")
            report.add(path, line, f"attacks on each of {name}: ASSERT_FALSE({name}.empty()) first")


def check_skips(path, lines, report):
    """A skip inside a lambda returns from the lambda only, and the test passes."""
    for number, line in enumerate(lines, 1):
        match = re.match(r"( *)(REQUIRE_(?:ROOT|CAPABILITY)|GTEST_SKIP)\(", line)
        if match and len(match.group(1)) > (2 if match.group(2) != "GTEST_SKIP" else 4):
            report.add(path, number, f"{match.group(2)} returns from what it stands in: write it "
                                     "at the start of the test")


def check_todo(path, lines, report):
    for number, line in enumerate(lines, 1):
        if re.search(r"\b(?:FIXME|XXX|HACK)\b", line):
            report.add(path, number, "no FIXME, XXX or HACK on main: open an issue, TODO(#n): text")
        for match in re.finditer(r"\bTODO\b", line):
            if not re.match(r"TODO\(#\d+\): \S", line[match.start():]):
                report.add(path, number, "write TODO(#issue): text")


def check_header(path, lines, report):
    if not re.match(r"(?://|/\*) \S", lines[0]):
        report.add(path, 1, "a header's first line says what it is for: // ...")
    if "#pragma once" not in lines:
        report.add(path, 1, "write #pragma once")


def allowed(lines, number, name):
    for line in lines[max(0, number - 2):number]:
        match = re.search(r"tidy: allow\(([^)]*)\)\s*(\S.*)?", line)
        if match and match.group(1) == name and match.group(2):
            return True
    return False


def check_bans(path, lines, code, report):
    bans = [ban for ban in BANS if ban.applies(path)]
    if path.endswith(".h"):
        bans += [ban for ban in HEADER_BANS if ban.applies(path)]
    for number, line in enumerate(code, 1):
        for ban in bans:
            if ban.pattern.search(line) and not allowed(lines, number, ban.name):
                report.add(path, number, f"{ban.name}: write {ban.instead}")


LOCK_MEMBER = re.compile(r"\s+(?:mutable )?(?:sched::)?(?:Mutex|SleepLock) (\w+)\{")


def check_guards(path, lines, report):
    """A lock says what it guards: some GUARDED_BY or REQUIRES of its file names it."""
    if is_test(path):
        return
    text = "\n".join(lines)
    for number, line in enumerate(lines, 1):
        match = LOCK_MEMBER.match(line)
        if not match or allowed(lines, number, "guards"):
            continue
        name = re.escape(match.group(1))
        if not re.search(r"(?:GUARDED_BY|REQUIRES)\((?:\w+(?:\.|->))*%s\)" % name, text):
            report.add(path, number,
                       f"{match.group(1)} guards nothing: write GUARDED_BY at what it guards, or "
                       "// tidy: allow(guards) and what it is for")


# --- documents and files --------------------------------------------------------------------------

def check_links(path, lines, root, report):
    fenced = False
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            fenced = not fenced
        if fenced:
            continue
        for match in re.finditer(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", line):
            target = match.group(1)
            if re.match(r"[a-z]+:", target):
                continue
            if not os.path.exists(os.path.join(root, os.path.dirname(path), target)):
                report.add(path, number, f"link to '{target}', which does not exist")
        for name in re.findall(r"`([^`]+)`", line):
            check_quoted_path(path, number, line, name, root, report)


def check_comment_paths(path, lines, known, report):
    """Files of ours that a comment names exist: any .cc, .md and .py, and .h in our folders."""
    for number, line in enumerate(lines, 1):
        match = re.search(r"(?://|^ *\*|^/\*)(.*)", line)
        if not match or "#include" in line:
            continue
        for name in re.findall(r"(?<![\w./<-])[\w-]+(?:/[\w-]+)*\.(?:cc|h|md|py)\b(?!/)",
                               match.group(1)):
            ours = not name.endswith(".h") or name.split("/")[0] in known.folders
            if ours and name not in known.names and "NAME" not in name:
                report.add(path, number, f"the comment names {name}, which does not exist")


RIDDLE = re.compile(
    r"(?:^\s*//+ |[.:;] )(So (?:many|much|few|little|long|old) |Of (?!course)|Should |Whose |"
    r"Whoever |Apart[:.])")


def check_english(path, lines, report):
    """Openings of a sentence that docs/STYLE.md rules out."""
    comment = False
    for number, line in enumerate(lines, 1):
        was, comment = comment, line.lstrip().startswith("//")
        match = RIDDLE.search(line) if comment else None
        # A line may begin with a word of the sentence before it.
        goes_on = was and not lines[number - 2].endswith((".", ":", ";", "//"))
        if match and (match.start() > 0 or not goes_on) and not allowed(lines, number, "English"):
            report.add(path, number, f"'{match.group(1).strip()}' opens a sentence: "
                                     "subject, verb, object (docs/STYLE.md)")


class KnownFiles:
    """All files by each suffix of their paths ("task.h", "kernel/task.h"), and our folders."""

    def __init__(self, files):
        self.names, self.folders = set(), set()
        for file in files:
            parts = file.split("/")
            self.names.update("/".join(parts[i:]) for i in range(len(parts)))
            if parts[0] in ("base", "platform", "gofer", "sentry", "runtime", "runsc-cli"):
                self.folders.update(parts[:-1])


def check_quoted_path(path, number, line, name, root, report):
    """A path in backticks must exist, unless its line says that it is `not yet` there."""
    if not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)+/?", name) or "not yet" in line.lower():
        return
    if re.search(r"(?<![A-Z])(?:NAME|AREA)(?![A-Z])", name):
        return
    top = name.split("/")[0]
    if top in ("build", ".git") or not os.path.isdir(os.path.join(root, top)):
        return
    if not os.path.exists(os.path.join(root, name)):
        report.add(path, number, f"`{name}` does not exist (say \"not yet\" if it is to come)")


def check_identifiers(path, lines, words, report):
    """Names in backticks in ARCHITECTURE.md and folder READMEs must occur in the sources."""
    fenced = False
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            fenced = not fenced
        if fenced or "not yet" in line.lower():
            continue
        for name in re.findall(r"`([A-Z]\w*[a-z]\w*(?:::\w+)*)(?:\(\))?`", line):
            for part in name.split("::"):
                if part not in words:
                    report.add(path, number, f"`{name}`: no source has the word {part}")
                    break


def check_changelog(path, lines, report):
    kinds = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    if lines[0] != "# Changelog":
        report.add(path, 1, 'start with "# Changelog"')
    versions = []
    for number, line in enumerate(lines, 1):
        if line.startswith("## "):
            versions.append(line)
            if not re.fullmatch(r"## \[(?:Unreleased|[\d.]+)\](?: - \d{4}-\d\d-\d\d)?", line):
                report.add(path, number, "write ## [Unreleased] or ## [1.2.3] - 2026-01-31")
        elif line.startswith("### ") and line[4:] not in kinds:
            report.add(path, number, f"sections are {', '.join(kinds)}")
    if not versions or versions[0] != "## [Unreleased]":
        report.add(path, 1, "the first version is ## [Unreleased]")


def check_mode(path, root, text, report):
    mode = os.stat(os.path.join(root, path)).st_mode
    executable = bool(mode & stat.S_IXUSR)
    if executable and not text.startswith("#!"):
        report.add(path, 1, "executable, but no script: chmod -x")
    if text.startswith("#!") and not executable:
        report.add(path, 1, "a script: chmod +x")


def source_words(root, files):
    words = set()
    for path in files:
        if path.endswith(CODE) or path.endswith(("CMakeLists.txt", ".cmake")):
            with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
                words.update(re.findall(r"\w+", file.read()))
    return words


def check_file(path, root, layers, words, report, known=None, used=None):
    full = os.path.join(root, path)
    if os.path.islink(full):
        return
    if " " in path:
        report.add(path, 1, "a space in the file's name")
    if os.path.getsize(full) > MAX_BYTES:
        report.add(path, 1, f"larger than {MAX_BYTES} bytes")
        return
    with open(full, "rb") as file:
        raw = file.read()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        report.add(path, 1, "not UTF-8")
        return
    check_mode(path, root, text, report)
    lines = text.split("\n")
    first = lines[0]
    if path.endswith(CODE) or first.startswith("#!"):
        check_size(path, lines, report)
        if not path.startswith(UNWRAPPED):
            check_columns(path, lines, report)
        check_whitespace(path, lines, report)
        if path not in ("tools/tidy.py", "tools/tidy_test.py"):
            check_todo(path, lines, report)
    if path.endswith(CPP):
        code = strip_cpp(text)
        check_layers(path, lines, layers, report, used)
        check_functions(path, code, report)
        check_try(path, code, report)
        check_bans(path, lines, code, report)
        check_guards(path, lines, report)
        check_english(path, lines, report)
        if known is not None:
            check_comment_paths(path, lines, known, report)
        if path.endswith("_test.cc"):
            check_skips(path, lines, report)
            if path.startswith("tests/hostile/"):
                check_attacks(path, code, report)
        if path.endswith(".h") and not path.startswith("cmake/"):  # precompiled headers
            check_header(path, lines, report)
    if path.endswith(".md"):
        check_links(path, lines, root, report)
        if path == "ARCHITECTURE.md" or (path.endswith("/README.md")):
            check_identifiers(path, lines, words, report)
    if path == "CHANGELOG.md":
        check_changelog(path, lines, report)


def repository_files(root):
    run = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root,
                         check=True, capture_output=True, text=True)
    return sorted(name for name in run.stdout.split("\0")
                  if name and os.path.lexists(os.path.join(root, name)))


def check_all_libraries(files, root, layers, report):
    texts = {}
    for path in files:
        if path.endswith("/CMakeLists.txt"):
            with open(os.path.join(root, path), encoding="utf-8") as file:
                texts[path] = file.read()
    folder_of = {name: os.path.dirname(path) for path, text in texts.items()
                 for name in re.findall(r"skep_library\((\w+)", text)}
    for path, text in texts.items():
        check_libraries(path, text, layers, report, folder_of)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=os.path.dirname(os.path.dirname(
        os.path.abspath(__file__))))
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    every = repository_files(options.root)
    report = Report()
    layers = {}
    try:
        with open(os.path.join(options.root, "tools/layers.txt"), encoding="utf-8") as file:
            layers = parse_layers(file.read())
    except ValueError as error:
        report.add("tools/layers.txt", 1, str(error))
    words = source_words(options.root, every)
    known = KnownFiles(every)
    files = options.files or every
    used = {}
    for path in files:
        check_file(path, options.root, layers, words, report, known, used)
    if not options.files:
        check_unused_layers(layers, used, report)
        check_all_libraries(every, options.root, layers, report)
    for problem in report.problems:
        print(problem, file=sys.stderr)
    print(f"tidy: {len(files)} files, {len(report.problems)} problems")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
