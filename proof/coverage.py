#!/usr/bin/env python3
"""Which lines of src/ run in the tests, and which error returns do?

Builds the library and its tests with -C instrument-coverage and runs, for epoll and for poll(2): the unit tests, the
simulator (STEPS=, 1,000,000 steps) and the C programs, which ask io_uring too. Counters are mapped from their files, so what a forked child
or a program that is killed has run is counted too. Prints a table of lines per file, and each `?`, `Err(` and `Error::`
that was never met and is not in NEVER_MET.md. Ends with 1 if less than 95 % of the core's lines have run, or if there
is such an error return.

usage: coverage.py [FOLDER]    what is built, in target/coverage by default
The tools are those of the compiler: `rustup component add llvm-tools`.
"""

import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target").resolve() / "coverage"
CARGO = os.environ.get("CARGO", "cargo")
# Never run here.
APART = ("src/backend/kqueue.rs", "src/backend/kqueue_set.rs")
WANTED = 95.0
EPOLL, POLL = "", '--cfg doorbell_backend="poll"'
SIM = "--cfg doorbell_sim"
# The counters of a program that is killed or ends by _exit: the file is mapped (%c).
FLAGS = "-Cinstrument-coverage -Cllvm-args=-runtime-counter-relocation"


def told(*command, **more):
    """Runs what has to succeed; its standard output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, **more)
    if done.returncode:
        sys.exit(f"coverage: FAILED: {' '.join(map(str, command))}\n{done.stdout[-4000:]}")
    return done.stdout


def tool(name):
    sysroot = pathlib.Path(told("rustc", "--print", "sysroot").strip())
    found = list(sysroot.glob(f"lib/rustlib/*/bin/{name}"))
    if not found:
        sys.exit(f"coverage: no {name}: rustup component add llvm-tools")
    return found[0]


def built(folder, cfg, *arguments, **environment):
    """What cargo has made, of the kinds that run: test programs and shared libraries."""
    # Build scripts are instrumented too, and would leave their counters where they run.
    flags = dict(os.environ, RUSTFLAGS=f"{FLAGS} {cfg}", LLVM_PROFILE_FILE="/dev/null", **environment)
    command = (CARGO, arguments[0], "-q", "--message-format=json", "--target-dir", OUT / folder, *arguments[1:])
    made = []
    for line in told(*command, cwd=ROOT, env=flags).splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == "doorbell":
            made += [message["executable"]] if message["executable"] else message["filenames"]
    return [m for m in made if not m.endswith((".rlib", ".rmeta"))]


class Run:
    """One build and what it ran."""

    def __init__(self, name, objects):
        self.name, self.objects, self.raw = name, objects, OUT / "raw" / name
        shutil.rmtree(self.raw, ignore_errors=True)
        self.raw.mkdir(parents=True)

    def play(self, *command, **environment):
        print(f"coverage: {self.name}", flush=True)
        profile = dict(os.environ, LLVM_PROFILE_FILE=f"{self.raw}/%p%c.profraw", **environment)
        print(told(*command, cwd=ROOT, env=profile).strip().splitlines()[-1])
        return self

    def export(self):
        merged = self.raw.with_suffix(".profdata")
        told(tool("llvm-profdata"), "merge", "--failure-mode=all", "-o", merged, *self.raw.iterdir())
        kind = [tool("llvm-cov"), "export", f"-instr-profile={merged}", self.objects[0]]
        for other in self.objects[1:]:
            kind += ["-object", other]
        kind += ["-ignore-filename-regex=src/tests/"]
        return told(*kind, "-format=lcov"), json.loads(told(*kind, "-format=text"))


def runs(backend, cfg, sim_cfg):
    unit = built(f"unit-{backend}", cfg, "test", "--no-run", "--lib", "-p", "doorbell")
    yield Run(f"unit-{backend}", unit).play(unit[0], "-q")

    small = dict(CARGO_PROFILE_RELEASE_LTO="off", CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS="true")
    for_sim = ("test", "--no-run", "--release", "--lib", "-p", "doorbell")
    sim = built(f"sim-{backend}", f"{SIM} {sim_cfg}", *for_sim, **small)
    steps = os.environ.get("STEPS") or "1000000"
    yield Run(f"sim-{backend}", sim).play(sim[0], "-q", "sim_", "--nocapture", STEPS=steps)

    # The hook that poison.c needs; the static library for static_link.c, which has counters of its own.
    made = built(f"c-{backend}", cfg, "build", "--lib", "--features", "test-hooks")
    so = next(m for m in made if m.endswith(".so"))
    run = Run(f"c-{backend}", [so])
    # static_link: links the static library, which wants the runtime of the counters from the C compiler.
    programs = ("make", "--no-print-directory", "-C", "c-tests", f"SO={so}", "LIMIT=300")
    run.play(*programs, "LEAVE=static_link")
    if backend == "epoll":  # and for managers with io_uring
        asked = "CFLAGS=-O1 -g -DBELL_TEST_IO_URING"
        run.play(*programs, "LEAVE=dlopen fork static_link", "NAME=c-tests-uring", asked)
    yield run


def add_lcov(text, lines):
    file = None
    for line in text.splitlines():
        kind, _, rest = line.partition(":")
        if kind == "SF":
            file = rest
        elif kind == "DA":
            number, count = map(int, rest.split(",")[:2])
            lines[file][number] += count


def add_regions(data, regions):
    """Regions of code by where they are: kinds 1 to 4 are not code."""
    for function in data["data"][0]["functions"]:
        for l1, c1, l2, c2, count, file, _, kind in function["regions"]:
            if kind == 0:
                regions[function["filenames"][file]][l1, c1, l2, c2] += count


def text_of(source, l1, c1, l2, c2):
    rows = source[l1 - 1 : l2]
    if l1 == l2:
        return rows[0][c1 - 1 : c2 - 1]
    return "\n".join([rows[0][c1 - 1 :], *rows[1:-1], rows[-1][: c2 - 1]])


def is_error(text):
    return text == "?" or re.search(r"\bErr\(|\bError::", text) is not None


def ranges(numbers):
    """1 2 3 7 as 1-3 7."""
    out = []
    for n in sorted(numbers):
        if out and out[-1][1] == n - 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def main():
    backends = {"epoll": (EPOLL, EPOLL), "poll": (POLL, POLL + " --cfg doorbell_small_generations")}
    lines = {b: collections.defaultdict(lambda: collections.defaultdict(int)) for b in backends}
    regions = collections.defaultdict(lambda: collections.defaultdict(int))
    for backend, (cfg, sim_cfg) in backends.items():
        for run in runs(backend, cfg, sim_cfg):
            lcov, data = run.export()
            add_lcov(lcov, lines[backend])
            add_regions(data, regions)
    report(lines, regions)


def share(counts):
    return 100 * sum(c > 0 for c in counts.values()) / len(counts) if counts else None


def explained():
    text = (ROOT / "proof" / "NEVER_MET.md").read_text()
    return set(re.findall(r"(?m)^- `(.+?)`: `(.+?)`(?: \(|$)", text))


def report(lines, regions):
    known, excused = explained(), 0
    files = sorted({f for of in lines.values() for f in of if pathlib.Path(f).is_relative_to(ROOT / "src")})
    total, run, returns, unmet = 0, 0, 0, []
    print(f"{'file':<28}{'lines':>6}{'run':>6}{'%':>7}{'epoll':>7}{'poll':>7}  never run")
    for file in files:
        name = os.path.relpath(file, ROOT)
        both = collections.defaultdict(int)
        for of in lines.values():
            for number, count in of[file].items():
                both[number] += count
        never = [n for n, count in both.items() if not count]
        alone = "".join(f"{s:7.1f}" if (s := share(of[file])) is not None else "      -" for of in lines.values())
        apart = name in APART
        print(f"{name:<28}{len(both):6}{len(both) - len(never):6}{share(both):7.1f}{alone}  "
              f"{'apart: not of this system' if apart else ranges(never)}")
        if apart:
            continue
        total += len(both)
        run += len(both) - len(never)
        source = pathlib.Path(file).read_text().splitlines()
        for where, count in sorted(regions[file].items()):
            text = text_of(source, *where)
            if is_error(text) and (text == "?" or "\n" not in text or not count):
                returns += 1
                line = source[where[0] - 1].strip()
                if not count and (name, line) in known:
                    excused += 1
                elif not count:
                    unmet.append(f"{name}:{where[0]}:{where[1]}: {line}")
    print("\nerror returns that no test meets, and NEVER_MET.md does not explain:")
    print("\n".join(unmet) or "none")
    part = 100 * run / total
    print(f"coverage: core_lines={total} run={run} percent={part:.1f} error_returns={returns} "
          f"explained={excused} unmet={len(unmet)}")
    sys.exit(part < WANTED or bool(unmet))


main()
