#!/usr/bin/env python3
"""cargo-mutants over the core (cargo-mutants.toml says which files): is each operator and each result watched?

The mutants are those that `cargo mutants --list` names. To build each of them is most of what judging them costs, so
weave/ writes them all into one tree, and a number in the environment says which of them is on: a handful of builds
serves them all, and judging one costs the tests alone. The tests run first without any mutant, and note which of
them they come by: what a test does not come by it need not judge. Then each mutant is put to the judges that have met
it, up to the first that fails or does not end, in rounds: first all to the simulator over both backends and the seeds
that ever failed, then those that live to the unit tests, the models of loom and the C programs (those of epoll for
managers with io_uring, too) that take less than four seconds, then to the slow ones, and last to the fuzzer and a
simulation ten times as long. Where the real kernel and the clock have a say, a judge must fail twice. One that is
explained is not put to the rounds after the second.

What computes a constant cannot be chosen when the program runs; nor can what the compiler refuses beside the others.
Each of those is built alone, and put to the same judges but loom and the fuzzer.

What is left is explained in mutants/EXPLAINED.md, or it is a hole, and told. Ends with 1 if less than 90 % are caught
or explained.

All of them are in the build, whatever the shard, and each verdict is kept: a run that was stopped goes on where it was,
another shard needs no build, and a test that is new is put only to those that live. A change of the library's sources
begins all anew. ^C or SIGTERM ends with the sum so far, when the judges that run have ended.

usage: cargo-mutants.py FOLDER     FOLDER: for what is built
  SHARD=0/50   every 50th mutant, from the first on; 0/1 are all
  ONLY=regex   those of them with such a name
  JOBS=2       so many that need a CPU at a time, and twice as many that mostly sleep; STEPS=400000 of the simulator
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = pathlib.Path(sys.argv[1]).resolve() / "cargo-mutants"
CARGO = os.environ.get("CARGO", "cargo")
JOBS = int(os.environ.get("JOBS") or os.cpu_count())
STEPS = int(os.environ.get("STEPS") or 400000)
WANTED = 90.0
# Fast to run, and it checks itself.
PROFILE = dict(LTO="off", CODEGEN_UNITS="16", OPT_LEVEL="2", DEBUG="false", DEBUG_ASSERTIONS="true",
               OVERFLOW_CHECKS="true")
ENVIRONMENT = dict(os.environ, **{f"CARGO_PROFILE_RELEASE_{k}": v for k, v in PROFILE.items()})
for variable in ("CARGO_TARGET_DIR", "SEED", "STEPS", "JOBS", "MAKEFLAGS", "RUSTFLAGS"):
    ENVIRONMENT.pop(variable, None)
ENVIRONMENT.update(RUST_BACKTRACE="0", CARGO_INCREMENTAL="1")
POLL = '--cfg doorbell_backend="poll"'
BUILDS = {
    "sim": "--cfg doorbell_sim",
    "sim-poll": f"--cfg doorbell_sim {POLL} --cfg doorbell_small_generations",
    "epoll": "",
    "poll": POLL,
    "loom": "--cfg loom",
}


def run(*command, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode:
        sys.exit(f"cargo-mutants: FAILED: {' '.join(map(str, command))}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def cargo(build, tree, *arguments):
    """Does it succeed, and what cargo says of it, as JSON. What is built lies beside the tree."""
    # What overflows for certain may be built: it panics.
    flags = f"{BUILDS[build]} -A warnings -A arithmetic_overflow -A unconditional_panic"
    command = [CARGO, arguments[0], "--release", "--message-format=json", "--target-dir", tree.parent / build,
               *arguments[1:]]
    done = subprocess.run(command, cwd=tree, env=dict(ENVIRONMENT, RUSTFLAGS=flags), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode and not any(m["reason"] == "compiler-message" for m in messages):
        sys.exit(f"cargo-mutants: FAILED: {' '.join(map(str, command))}\n{done.stderr[-3000:]}")
    return done.returncode == 0, messages


def copy_tree(tree):
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for name in ("src", "include"):
        shutil.copytree(ROOT / name, tree / name, copy_function=shutil.copyfile)
    for name in ("Cargo.lock", "build.rs"):
        shutil.copyfile(ROOT / name, tree / name)
    # A package alone: the C tests stay where they are.
    manifest = (ROOT / "Cargo.toml").read_text()
    (tree / "Cargo.toml").write_text(re.sub(r"(?m)^members = .*", 'members = ["."]', manifest))


def make_same(tree, like):
    """Touches only what is another text there: times decide what cargo builds again."""
    for old in list(tree.rglob("*.*")):
        if old.is_file() and not (like / old.relative_to(tree)).exists():
            old.unlink()
    for new in like.rglob("*.*"):
        if new.is_file():
            old = tree / new.relative_to(like)
            if not old.exists() or old.read_bytes() != new.read_bytes():
                old.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(new, old)


def hash_of(*what):
    """Of files, of what is in folders, and of texts."""
    of = hashlib.sha1()
    for thing in what:
        if isinstance(thing, pathlib.Path):
            files = sorted(f for f in thing.rglob("*") if f.is_file()) if thing.is_dir() else [thing]
            for file in files:
                of.update(f"{file.relative_to(ROOT)}\0".encode() + hashlib.sha1(file.read_bytes()).digest())
        else:
            of.update(f"{thing}\0".encode())
    return of.hexdigest()[:16]


class Kept:
    """What earlier runs have found, as long as the library is the same."""

    def __init__(self, mutants):
        sources = [f for f in sorted((ROOT / "src").rglob("*.rs")) if ROOT / "src/tests" not in f.parents]
        files = [ROOT / f for f in ("include", "Cargo.toml", "Cargo.lock", "build.rs", "proof/weave/src",
                                    "proof/weave/mutants.rs")]
        self.engine = hash_of(*sources, *files, json.dumps(mutants))
        self.path, self.lock = OUT / "kept.jsonl", threading.Lock()
        self.refused, self.rehearsed, self.noticed = [], {}, {}
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        if not lines or json.loads(lines[0]) != self.engine:
            self.path.write_text(json.dumps(self.engine) + "\n")
            lines = []
        for line in lines[1:]:
            try:
                kind, *rest = json.loads(line)
            except ValueError:
                continue  # the last one of a run that was killed
            if kind == "refused":
                self.refused = rest[0]
            elif kind == "rehearsed":
                self.rehearsed[rest[0]] = rest[1:]
            else:
                self.noticed[rest[0], rest[1]] = rest[2]

    def keep(self, *line):
        with self.lock, open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")


# ---- one tree with all of them

def blamed(tree, messages):
    """The mutants in whose texts the compiler finds errors."""
    numbers = set()
    for message in messages:
        if message["reason"] != "compiler-message" or message["message"]["level"] != "error":
            continue
        spans = message["message"]["spans"]
        for child in message["message"]["children"]:
            spans = spans + child["spans"]
        found = set()
        for span in spans:
            while span:
                file = tree / span["file_name"]
                if file.is_file():
                    text = file.read_bytes()
                    for m in re.finditer(rb"/\*m(\d+)\*/.*?/\*m\*/", text, re.S):
                        if m.start() <= span["byte_start"] < m.end():
                            found.add(int(m[1]))
                span = (span["expansion"] or {}).get("span")
        if not found and spans:
            print(f"cargo-mutants: nobody's: {message['message']['rendered']}", flush=True)
        numbers |= found
    return numbers


def weave(mutants, tree, kept):
    """Writes them into a tree. Those that could not be written."""
    (OUT / "list.json").write_text(json.dumps(mutants))
    tool, new = OUT / "weave", OUT / "new"
    run(CARGO, "build", "-q", "--locked", "--manifest-path", ROOT / "proof/weave/Cargo.toml", "--target-dir", tool,
        env=ENVIRONMENT)
    left_out = set(kept.refused)
    while True:
        copy_tree(new)
        apart = run(tool / "debug/weave", OUT / "list.json", ROOT, new, *map(str, sorted(left_out)))
        shutil.copyfile(ROOT / "proof/weave/mutants.rs", new / "src/mutants.rs")
        with open(new / "src/lib.rs", "a") as library:
            library.write("\nmod mutants;\n")
        make_same(tree, new)
        refused = set()
        for build in BUILDS:
            if "sim" in build or kept.refused:
                continue  # there for tests only, and of the same types; or it was so before
            good, messages = cargo(build, tree, "check", "--lib")
            if not good:
                refused |= blamed(tree, messages)
                if not refused:
                    sys.exit(f"cargo-mutants: {tree} does not build ({build})")
        if not refused:
            kept.keep("refused", sorted(left_out))
            return set(map(int, apart.split()))
        print(f"cargo-mutants: {len(refused)} are refused by the compiler", flush=True)
        left_out |= refused


# ---- judges

# Those that need a CPU wait for one another; those that sleep do not.
CPUS = threading.Semaphore(JOBS)
TICKS = os.sysconf("SC_CLK_TCK")
STOPPED = threading.Event()


def ticks_of(session):
    """The CPU time that all processes of a session have used."""
    ticks = 0
    for process in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = process.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += sum(map(int, fields[11:15]))
    return ticks


@dataclasses.dataclass
class Judge:
    name: str
    command: list
    cwd: pathlib.Path
    more: dict = dataclasses.field(default_factory=dict)
    rank: int = 0
    seconds: float = 0
    cpu: float = 0
    met: bytes = b""
    sanitized: bool = False
    # Of the same kind as this one, and ten times as long.
    longer: str = ""
    # What it asks: sources.
    asks: list = dataclasses.field(default_factory=list)
    key: str = ""

    def is_sure(self):
        """Fails always or never: there is no clock in it, and no kernel."""
        return self.name.endswith(("(sim)", "(sim-poll)", "(loom)"))

    def notices(self, log, **environment):
        """Does it fail?"""
        with CPUS if self.cpu > 0.3 * self.seconds else contextlib.nullcontext():
            ended = self.ends_well(log, **environment)
            if ended is None or ended is False and (not self.met or self.is_sure()):
                return True
            return not ended and not self.ends_well(log, **environment)

    def ends_well(self, log, **environment):
        """None if it does not end."""
        known = bool(self.met)
        begin = time.monotonic()
        # Who sleeps for long when it should have ended sleeps for ever; who still works may be on a busy machine.
        ask_again, used_then = (begin + 10 + 1.5 * self.seconds if known else begin + 900), 0
        with open(log, "w") as file:
            process = subprocess.Popen(
                self.command, cwd=self.cwd, env={**ENVIRONMENT, **self.more, **environment}, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, start_new_session=True)
            # From here, because what Python does in the child costs more than most judges do.
            resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
            # A mutant may ask for all there is (as sanitizers do); one that turns for ever is known by what it uses.
            if not self.sanitized:
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (4 << 30, 4 << 30))
            if known:
                seconds = int(2 + 3 * self.cpu)
                resource.prlimit(process.pid, resource.RLIMIT_CPU, (seconds, seconds))
            ended = os.pidfd_open(process.pid)
            while True:
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                if time.monotonic() > ask_again:
                    ticks = ticks_of(process.pid)
                    if not known or ticks - used_then < TICKS / 5 or ask_again > begin + 60 + 10 * self.seconds:
                        break
                    ask_again, used_then = ask_again + 10, ticks
                select.select([ended], [], [], max(0, ask_again - time.monotonic()) + 0.01)
            os.close(ended)
            # Its children too, and whoever has had too long.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            if not pid:
                os.wait4(process.pid, 0)
            process.returncode = 0
            if not known:
                self.seconds, self.cpu = time.monotonic() - begin, used.ru_utime + used.ru_stime
            return os.waitstatus_to_exitcode(status) in (0, 77) if pid else None


def judges(tree, builds, whole=True):
    """Builds what judges, or None. `whole`: all of it; what is built for one mutant alone makes do with less."""
    found = []
    test_programs, libraries = {}, {}
    for build in builds:
        begin = time.monotonic()
        good, messages = cargo(build, tree, "test", "--lib", "--no-run")
        if good and "sim" not in build and build != "loom":
            good, more = cargo(build, tree, "build", "--lib", "--features", "test-hooks")
            messages += more
        if not good:
            return None
        for m in messages:
            if m["reason"] == "compiler-artifact" and m["target"]["name"] == "doorbell":
                if m["executable"]:
                    test_programs[build] = m["executable"]
                for file in m["filenames"]:
                    if file.endswith("libdoorbell.so"):
                        libraries[build] = pathlib.Path(file)
        if whole:
            print(f"cargo-mutants: built for {build}, {time.monotonic() - begin:.0f} s", flush=True)

    tests = ROOT / "src/tests"
    for build, program in test_programs.items():
        def judge(name, *arguments, rank, asks, **more):
            found.append(Judge(f"{name} ({build})", [program, "-q", *arguments], tree, more, rank, asks=asks))
        if "sim" in build:
            asks = [tests / "sim"]
            judge("simulator", "sim_random_steps", rank=0, asks=asks, STEPS=str(STEPS), SHRINK="0")
            judge("seeds", "sim_seeds", rank=0, asks=asks, SHRINK="0")
            judge("simulator at length", "sim_random_steps", rank=9, asks=asks, STEPS=str(10 * STEPS), SEED="100000",
                  SHRINK="0")
            found[-1].longer = f"simulator ({build})"
        # Each test alone: what is quick need not wait for what is not, what does not come by a mutant is not asked, and
        # one that hangs is known soon. So it is with the questions of the C programs.
        for name in re.findall(r"(?m)^tests::(.*): test$", run(program, "--list", "--format", "terse")):
            file = tests / f"{name.split('::')[0]}.rs".replace("backend_io_uring", "backend")
            if "sim_" not in name and "sim::" not in name:
                judge(name, "--exact", f"tests::{name}", rank=1, asks=[file])

    kinds = [("", "", ())]
    for build, so in libraries.items():
        if build == "epoll":
            asked = ("io_uring", "-O1 -g -DBELL_TEST_IO_URING", ("dlopen", "fork", "static_link"))
            kinds = [("", "-O1 -g", ("static_link",)), asked]
        else:
            kinds = [("", "-O1 -g", ("static_link",))]
        for kind, flags, leave in kinds:
            names = sorted(p.stem for p in (ROOT / "c-tests/c").glob("*.c") if p.stem not in leave)
            folder = f"c-tests-{kind}" if kind else "c-tests"
            programs = so.parent / folder
            run("make", "-s", f"-j{JOBS}", "-C", "c-tests", f"SO={so}", f"NAME={folder}", f"CFLAGS={flags}",
                *[programs / n for n in names], cwd=ROOT, env=ENVIRONMENT)
            for n in names:
                source = ROOT / f"c-tests/c/{n}.c"
                asks = [source, *sorted(source.parent.glob("*.h")), flags]
                for question in re.findall(r"\bRUN\((\w+)\)", source.read_text()) or [""]:
                    title = f"{n}.c {question}".strip()
                    more = {"BELL_TEST_ONLY": question} if question else {}
                    found.append(Judge(f"{title} ({kind or build})", [programs / n, so], programs, more, 1, asks=asks))
        if whole:
            fuzz = so.parent / "fuzz"
            fuzz.mkdir(exist_ok=True)
            for name in ("libdoorbell.so", "libdoorbell.so.0"):
                (fuzz / name).unlink(missing_ok=True)
                (fuzz / name).symlink_to(so)
            run("cc", "-std=c11", "-O1", "-g", "-pthread", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
                "-I", ROOT / "include", ROOT / "c-tests/fuzz/fuzz.c", "-o", fuzz / "fuzz", "-L", fuzz,
                f"-Wl,-rpath,{fuzz}", "-ldoorbell")
            shutil.copytree(ROOT / "c-tests/fuzz/corpus", fuzz / "corpus", dirs_exist_ok=True)
            command = [fuzz / "fuzz", fuzz / "corpus", "--random", "1", "1000"]
            asks = [ROOT / "c-tests/fuzz"]
            found.append(Judge(f"fuzzer ({build})", command, fuzz, rank=6, sanitized=True, asks=asks))
    for judge in found:
        judge.key = hash_of(judge.name, *map(str, judge.command[1:]), *sorted(judge.more.items()), *judge.asks)
    return found


def rehearse(found, mutants, kept):
    """Without a mutant, noting how long each takes and which mutants it comes by."""
    told = threading.Lock()
    done, last, new = 0, 0, []
    for judge in found:
        if judge.key in kept.rehearsed:
            judge.seconds, judge.cpu, met = kept.rehearsed[judge.key]
            judge.met = bytes.fromhex(met)
        elif not judge.longer:
            new.append(judge)

    def play(judge):
        nonlocal done, last
        name = threading.get_ident()
        file, log = OUT / f"met-{name}", OUT / f"log-{name}"
        file.write_bytes(bytes(max(1, mutants)))
        # One that fails now and then must not end it all; one that fails three times cannot judge.
        if all(judge.notices(log, BELL_MUTANTS_MET=str(file)) for _ in range(3)):
            shutil.copy(log, OUT / "failed")
            return f"cargo-mutants: {judge.name} fails without a mutant: {OUT / 'failed'}"
        judge.met = file.read_bytes()
        kept.keep("rehearsed", judge.key, judge.seconds, judge.cpu, judge.met.hex())
        with told:
            done += 1
            now = time.monotonic()
            if now - last >= 10 or done == len(new):
                last = now
                print(f"cargo-mutants: {done}/{len(new)} judges rehearsed", flush=True)

    with concurrent.futures.ThreadPoolExecutor(2 * JOBS) as pool:
        for failed in pool.map(play, new):
            if failed:
                sys.exit(failed)
    by_name = {j.name: j for j in found}
    for judge in found:
        if judge.longer:
            like = by_name[judge.longer]
            judge.seconds, judge.cpu, judge.met = 10 * like.seconds, 10 * like.cpu, like.met
    for judge in found:
        if judge.rank == 1 and judge.seconds > 4:
            judge.rank = 2  # in a later round
    found.sort(key=lambda j: (j.rank, j.seconds))


# By the ranks of the judges. Whoever is explained and has outlived the second need not go on.
ROUNDS = (("the simulator", range(0, 1)), ("quick tests, models and C programs", range(1, 2)),
          ("the slow ones", range(2, 6)), ("what is long", range(6, 10)))


def judge_all(mutants, numbers, found, kept, report):
    """Those of the woven ones, in rounds."""
    living = list(numbers)
    # In no order, but the same each time: where it is stopped, what was judged is a sample of all.
    random.Random(1).shuffle(living)
    for number in living:
        if not any(j.met[number] for j in found):
            report.add(mutants[number]["name"], "missed", "never met")
    living = [n for n in living if any(j.met[n] for j in found)]
    for place, (title, ranks) in enumerate(ROUNDS):
        def to_ask(number):
            """Who has not judged it before."""
            name = mutants[number]["name"]
            before = {j.key: kept.noticed.get((name, j.key)) for j in found if j.rank in ranks and j.met[number]}
            asked = [j for j in found if j.key in before]
            by = [j for j in asked if before[j.key]]
            return by[:1] or [j for j in asked if before[j.key] is None]

        def ask(number):
            name, log = mutants[number]["name"], OUT / f"log-{threading.get_ident()}"
            for judge in to_ask(number):
                if STOPPED.is_set():
                    return None
                noticed = kept.noticed.get((name, judge.key))
                if noticed is None:
                    noticed = judge.notices(log, BELL_MUTANT=str(number))
                    kept.keep("judged", name, judge.key, noticed)
                if noticed:
                    report.add(name, "caught", judge.name)
                    return None
            report.went_on()
            return number

        # If nobody notices any more.
        work = [j for n in living for j in to_ask(n) if (mutants[n]["name"], j.key) not in kept.noticed]
        report.begin_round(f"{place + 1} of {len(ROUNDS)}, {title}", len(living),
                           max(sum(j.cpu for j in work) / JOBS, sum(j.seconds for j in work) / (2 * JOBS)))
        with concurrent.futures.ThreadPoolExecutor(2 * JOBS) as pool:
            try:
                living = [n for n in pool.map(ask, living) if n is not None]
            except KeyboardInterrupt:
                STOPPED.set()
                raise
        if place == 1:
            for number in [n for n in living if mutants[n]["name"] in report.explained]:
                report.add(mutants[number]["name"], "missed", "two rounds")
                living.remove(number)
    for number in living:
        report.add(mutants[number]["name"], "missed", f"{sum(j.met[number] for j in found)} judges")


# ---- those that are built alone

def apply(mutant, tree):
    file = tree / mutant["file"]
    lines = file.read_text().splitlines(keepends=True)
    (a, b), (c, d) = [(mutant["span"][k]["line"] - 1, mutant["span"][k]["column"] - 1) for k in ("start", "end")]
    before, after = "".join(lines[:a]) + lines[a][:b], lines[c][d:] + "".join(lines[c + 1:])
    file.write_text(before + mutant["replacement"] + after)


def alone(mutant, known):
    """Its verdict, and by whom."""
    tree = OUT / "alone/tree"
    copy_tree(tree)
    apply(mutant, tree)
    epoll_only = mutant["file"] in (f"src/backend/{f}.rs" for f in ("epoll", "linux", "uring", "ring"))
    poll_only = mutant["file"] == "src/backend/poll.rs"
    builds = [b for b in BUILDS if b != "loom" and not (epoll_only if "poll" in b else poll_only)]
    if not all(cargo(build, tree, "check", "--lib")[0] for build in builds if "sim" not in build):
        return "unviable", None
    limits = {j.name: j for j in known}
    for build in builds:
        found = judges(tree, [build], whole=False)
        if found is None:
            return "unviable", None
        for judge in found:
            like = limits[judge.name]
            judge.rank, judge.seconds, judge.cpu, judge.met = like.rank, like.seconds, like.cpu, b"?"
        for judge in sorted(found, key=lambda j: (j.rank, j.seconds)):
            if judge.notices(OUT / "log"):
                return "caught", judge.name
    return "missed", None


def without_place(name):
    """src/a.rs:1:2: replace x with y in f -> src/a.rs: replace x with y in f"""
    return re.sub(r":\d+:\d+:", ":", name)


class Explained:
    """In EXPLAINED.md: names without places, some with a text that the line must have."""

    def __init__(self, mutants):
        text = (ROOT / "proof/mutants/EXPLAINED.md").read_text()
        entries = re.findall(r"(?m)^- `([^`]*)`(?: at `(.*)`)?$", text)
        self.names = set()
        used = set()
        for mutant in mutants:
            line = (ROOT / mutant["file"]).read_text().splitlines()[mutant["span"]["start"]["line"] - 1]
            for entry in entries:
                if entry[0] == without_place(mutant["name"]) and entry[1] in line:
                    self.names.add(mutant["name"])
                    used.add(entry)
        for entry in sorted(set(entries) - used):
            print(f"cargo-mutants: EXPLAINED.md: there is no such mutant (any more): {entry[0]}", flush=True)


class Report:
    def __init__(self, of, explained):
        self.of, self.done, self.begin, self.told = of, 0, time.monotonic(), 0
        self.title, self.left, self.at_round, self.in_round, self.most = "", 0, 0, 0, 0
        self.explained = explained.names
        self.counts = collections.defaultdict(collections.Counter)
        self.missed, self.lock = [], threading.Lock()
        self.file = open(OUT / "outcomes.txt", "w")

    def begin_round(self, title, left, most):
        """`most`: seconds it takes if all live."""
        self.title, self.left, self.in_round, self.most, self.at_round = title, left, 0, most, time.monotonic()
        print(f"cargo-mutants: round {title}: {left} mutants, at most {most / 60:.0f} min", flush=True)

    def went_on(self):
        """One lives, and goes to the next round."""
        with self.lock:
            self.progress()

    def progress(self):
        self.in_round += 1
        now = time.monotonic()
        if self.left and (now - self.told >= 10 or self.done == self.of):
            self.told = now
            passed = now - self.at_round
            rest = min(self.most, passed * (self.left - self.in_round) / self.in_round)
            print(f"cargo-mutants: {self.done}/{self.of} judged, {len(self.missed)} missed, {now - self.begin:.0f} s; "
                  f"round {self.title}: {self.in_round}/{self.left}, {rest:.0f} s more", flush=True)

    def add(self, name, verdict, note):
        if verdict == "missed" and name in self.explained:
            verdict = "explained"
        with self.lock:
            self.done += 1
            self.counts[name.split(":")[0]][verdict] += 1
            print(f"{verdict} {name} ({note})", file=self.file, flush=True)
            if verdict == "missed":
                self.missed.append(f"{name} ({note})")
                print(f"missed {name} ({note})", flush=True)
            self.progress()

    def end(self):
        kinds = ("caught", "explained", "missed", "unviable")
        print(f"{'file':<26}" + "".join(f"{k:>11}" for k in kinds) + f"{'%':>8}")
        total = collections.Counter()
        for file, of in sorted(self.counts.items()):
            viable = sum(of[k] for k in kinds[:3])
            share = f"{100 * (of['caught'] + of['explained']) / viable:8.1f}" if viable else ""
            print(f"{file:<26}" + "".join(f"{of[k]:11}" for k in kinds) + share)
            total += of
        print("missed, and not explained:", *(sorted(self.missed) or ["none"]), sep="\n")
        judged = sum(total[k] for k in kinds[:3])
        good = total["caught"] + total["explained"]
        print(f"cargo_mutants={judged} caught={total['caught']} explained={total['explained']} "
              f"missed={total['missed']} unviable={total['unviable']} unjudged={self.of - self.done} "
              f"percent={100 * good / max(judged, 1):.1f} seconds={time.monotonic() - START:.0f}")
        return 100 * good < WANTED * judged or self.done < self.of


START = time.monotonic()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    if subprocess.run([CARGO, "mutants", "--version"], capture_output=True).returncode:
        sys.exit("cargo-mutants: not there: cargo install --locked cargo-mutants")
    listed = run(CARGO, "mutants", "--list", "--json", "--package", "doorbell", "--config", "proof/cargo-mutants.toml",
                 cwd=ROOT, env=ENVIRONMENT)
    first, every = map(int, (os.environ.get("SHARD") or "0/1").split("/"))
    mutants = json.loads(listed)
    only = re.compile(os.environ.get("ONLY") or "")
    chosen = [n for n in range(first, len(mutants), every) if only.search(mutants[n]["name"])]
    print(f"cargo-mutants: {len(chosen)} of {len(mutants)}", flush=True)
    tree = OUT / "all/tree"
    kept = Kept(mutants)
    apart = weave(mutants, tree, kept)
    found = judges(tree, BUILDS)
    if found is None:
        sys.exit(f"cargo-mutants: {tree} does not build")
    rehearse(found, len(mutants), kept)
    report = Report(len(chosen), Explained(mutants))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        judge_all(mutants, [n for n in chosen if n not in apart], found, kept, report)
        of_all = hash_of(*sorted(j.key for j in found))
        apart &= set(chosen)
        report.begin_round("of those that are built alone", len(apart), float("inf"))
        for number in sorted(apart):
            name = mutants[number]["name"]
            before = kept.noticed.get((name, of_all)) or alone(mutants[number], found)
            kept.keep("judged", name, of_all, before)
            report.add(name, before[0], before[1] or "alone")
    except KeyboardInterrupt:
        print("cargo-mutants: stopped", flush=True)
    sys.exit(report.end())


if __name__ == "__main__":
    main()
