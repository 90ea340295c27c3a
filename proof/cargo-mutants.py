#!/usr/bin/env python3
"""cargo-mutants over the core (cargo-mutants.toml says which files): is each operator and each result watched?

The mutants are those that `cargo mutants --list` names. To build each of them is most of what judging them costs, so
weave/ writes them all into one tree, and a number in the environment says which of them is on: a handful of builds
serves them all, and judging one costs the tests alone. The tests run first without any mutant, and note which of
them they come by: what a test does not come by it need not judge. Then each mutant is put to the judges that have met
it, up to the first that fails or does not end: unit tests and simulator over both backends, then the unit tests over
the real kernel, the C programs (those of epoll for managers with io_uring, too), the models of loom, the fuzzer, and
last a simulation ten times as long.

What computes a constant cannot be chosen when the program runs; nor can what the compiler refuses beside the others.
Each of those is built alone, and put to the same judges but loom and the fuzzer.

What is left is explained in mutants/EXPLAINED.md, or it is a hole, and told. Ends with 1 if less than 90 % are caught
or explained.

usage: cargo-mutants.py FOLDER     FOLDER: for what is built
  SHARD=0/50   every 50th mutant, from the first on; 0/1 are all
  ONLY=regex   those of them with such a name
  JOBS=2       so many at a time; STEPS=400000 of the simulator for each
"""

import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import random
import re
import resource
import shutil
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = pathlib.Path(sys.argv[1]).resolve() / "cargo-mutants"
CARGO = os.environ.get("CARGO", "cargo")
JOBS = int(os.environ.get("JOBS") or 1)
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
    command = [CARGO, arguments[0], "--release", "--message-format=json", "--target-dir", tree.parent / build, *arguments[1:]]
    done = subprocess.run(command, cwd=tree, env=dict(ENVIRONMENT, RUSTFLAGS=flags), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode and not any(m["reason"] == "compiler-message" for m in messages):
        sys.exit(f"cargo-mutants: FAILED: {' '.join(map(str, command))}\n{done.stderr[-3000:]}")
    return done.returncode == 0, messages


def copy_tree(tree):
    tree.mkdir(parents=True, exist_ok=True)
    for name in ("src", "include"):
        shutil.rmtree(tree / name, ignore_errors=True)
        shutil.copytree(ROOT / name, tree / name, copy_function=shutil.copyfile)
    for name in ("Cargo.lock", "build.rs"):
        shutil.copy(ROOT / name, tree)
    # A package alone: the C tests stay where they are.
    manifest = (ROOT / "Cargo.toml").read_text()
    (tree / "Cargo.toml").write_text(re.sub(r"(?m)^members = .*", 'members = ["."]', manifest))


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


def weave(mutants, tree):
    """Writes them into a tree. Those that could not be written."""
    copy_tree(tree)
    (OUT / "list.json").write_text(json.dumps(mutants))
    tool = OUT / "weave"
    run(CARGO, "build", "-q", "--locked", "--manifest-path", ROOT / "proof/weave/Cargo.toml", "--target-dir", tool,
        env=ENVIRONMENT)
    shutil.copy(ROOT / "proof/weave/mutants.rs", tree / "src")
    library = (tree / "src/lib.rs").read_text()
    left_out = set()
    while True:
        apart = run(tool / "debug/weave", OUT / "list.json", ROOT, tree, *map(str, sorted(left_out)))
        (tree / "src/lib.rs").write_text(library + "\nmod mutants;\n")
        refused = set()
        for build in BUILDS:
            if "sim" in build:
                continue  # there for tests only, and of the same types
            good, messages = cargo(build, tree, "check", "--lib")
            if not good:
                refused |= blamed(tree, messages)
                if not refused:
                    sys.exit(f"cargo-mutants: {tree} does not build ({build})")
        if not refused:
            return set(map(int, apart.split()))
        print(f"cargo-mutants: {len(refused)} are refused by the compiler", flush=True)
        left_out |= refused


# ---- judges

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

    def notices(self, log, **environment):
        """Does it fail?"""
        known = bool(self.met)

        def limits():
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            # A mutant may ask for all there is (as sanitizers do); and one that turns for ever is known by what it uses.
            if not self.sanitized:
                resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))
            if known:
                seconds = int(2 + 3 * self.cpu)
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        begin = time.monotonic()
        with open(log, "w") as file:
            process = subprocess.Popen(
                self.command, cwd=self.cwd, env={**ENVIRONMENT, **self.more, **environment}, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, start_new_session=True, preexec_fn=limits)
            patience = 10 + 4 * self.seconds if known else 900
            pause = 0.005
            while True:
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
                if pid or time.monotonic() - begin > patience:
                    break
                time.sleep(pause)
                pause = min(0.1, 1.5 * pause)
            # Its children too, and whoever has had too long.
            try:
                os.killpg(process.pid, 9)
            except ProcessLookupError:
                pass
            if not pid:
                os.wait4(process.pid, 0)
            process.returncode = 0
            if not known:
                self.seconds, self.cpu = time.monotonic() - begin, used.ru_utime + used.ru_stime
            return not pid or os.waitstatus_to_exitcode(status) not in (0, 77)


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

    for build, program in test_programs.items():
        def judge(name, *arguments, rank, **more):
            found.append(Judge(f"{name} ({build})", [program, "-q", *arguments], tree, more, rank))
        if build == "loom":
            judge("models", "loom_", rank=4)
        elif "sim" in build:
            judge("unit tests", "--skip", "sim_", rank=2)
            judge("simulator", "sim_random_steps", rank=0, STEPS=str(STEPS), SHRINK="0")
            judge("seeds", "sim_seeds", rank=0, SHRINK="0")
            judge("simulator at length", "sim_random_steps", rank=9, STEPS=str(10 * STEPS), SEED="100000", SHRINK="0")
            found[-1].longer = f"simulator ({build})"
        else:
            judge("unit tests", rank=1)

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
            run("make", "-s", "-C", "c-tests", f"SO={so}", f"NAME={folder}", f"CFLAGS={flags}",
                *[programs / n for n in names], cwd=ROOT, env=ENVIRONMENT)
            found += [Judge(f"{n}.c ({kind or build})", [programs / n, so], programs, rank=5) for n in names]
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
            found.append(Judge(f"fuzzer ({build})", command, fuzz, rank=6, sanitized=True))
    return found


def rehearse(found, mutants):
    """Without a mutant, noting how long each takes and which mutants it comes by."""
    told = threading.Lock()
    done = 0

    def play(judge):
        nonlocal done
        name = threading.get_ident()
        file, log = OUT / f"met-{name}", OUT / f"log-{name}"
        file.write_bytes(bytes(max(1, mutants)))
        # One that fails now and then must not end it all; one that fails twice cannot judge.
        if judge.notices(log, BELL_MUTANTS_MET=str(file)) and judge.notices(log, BELL_MUTANTS_MET=str(file)):
            shutil.copy(log, OUT / "failed")
            return f"cargo-mutants: {judge.name} fails without a mutant: {OUT / 'failed'}"
        judge.met = file.read_bytes()
        with told:
            done += 1
            print(f"cargo-mutants: {done}/{len(found)} {judge.name}: {judge.seconds:.1f} s, meets {sum(judge.met)}",
                  flush=True)

    # Half of them mostly sleep.
    with concurrent.futures.ThreadPoolExecutor(2 * JOBS) as pool:
        for failed in pool.map(play, [j for j in found if not j.longer]):
            if failed:
                sys.exit(failed)
    by_name = {j.name: j for j in found}
    for judge in found:
        if judge.longer:
            like = by_name[judge.longer]
            judge.seconds, judge.cpu, judge.met = 10 * like.seconds, 10 * like.cpu, like.met
    found.sort(key=lambda j: (j.rank, j.seconds))


def verdict_of(number, found, log):
    """Who notices, or None; and how many had to be asked."""
    asked = [j for j in found if j.met[number]]
    for judge in asked:
        if judge.notices(log, BELL_MUTANT=str(number)):
            return judge.name, len(asked)
    return None, len(asked)


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
            judge.seconds, judge.cpu, judge.met = limits[judge.name].seconds, limits[judge.name].cpu, b"?"
        for judge in sorted(found, key=lambda j: (j.rank, j.seconds)):
            if judge.notices(OUT / "log"):
                return "caught", judge.name
    return "missed", None


def without_place(name):
    """src/a.rs:1:2: replace x with y in f -> src/a.rs: replace x with y in f"""
    return re.sub(r":\d+:\d+:", ":", name)


class Report:
    def __init__(self, of):
        self.of, self.done, self.begin, self.told = of, 0, time.monotonic(), 0
        self.explained = set(re.findall(r"(?m)^- `(.*)`", (ROOT / "proof/mutants/EXPLAINED.md").read_text()))
        self.counts = collections.defaultdict(collections.Counter)
        self.missed, self.lock = [], threading.Lock()
        self.file = open(OUT / "outcomes.txt", "w")

    def add(self, name, verdict, note):
        if verdict == "missed" and without_place(name) in self.explained:
            verdict = "explained"
        with self.lock:
            self.done += 1
            self.counts[name.split(":")[0]][verdict] += 1
            print(f"{verdict} {name} ({note})", file=self.file, flush=True)
            if verdict == "missed":
                self.missed.append(f"{name} ({note})")
                print(f"missed {name} ({note})", flush=True)
            seconds = time.monotonic() - self.begin
            if seconds - self.told >= 10 or self.done == self.of:
                self.told = seconds
                print(f"cargo-mutants: {self.done}/{self.of}, {seconds:.0f} s, {len(self.missed)} missed", flush=True)

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
              f"missed={total['missed']} unviable={total['unviable']} percent={100 * good / max(judged, 1):.1f} "
              f"seconds={time.monotonic() - START:.0f}")
        return 100 * good < WANTED * judged


START = time.monotonic()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    if subprocess.run([CARGO, "mutants", "--version"], capture_output=True).returncode:
        sys.exit("cargo-mutants: not there: cargo install --locked cargo-mutants")
    listed = run(CARGO, "mutants", "--list", "--json", "--package", "doorbell", "--config", "proof/cargo-mutants.toml",
                 cwd=ROOT, env=ENVIRONMENT)
    first, every = map(int, (os.environ.get("SHARD") or "0/1").split("/"))
    every_one = json.loads(listed)
    mutants = [m for m in every_one[first::every] if re.search(os.environ.get("ONLY") or "", m["name"])]
    print(f"cargo-mutants: {len(mutants)} of {len(every_one)}", flush=True)
    tree = OUT / "all/tree"
    apart = weave(mutants, tree)
    found = judges(tree, BUILDS)
    if found is None:
        sys.exit(f"cargo-mutants: {tree} does not build")
    rehearse(found, len(mutants))
    report = Report(len(mutants))

    def judge(number):
        log = OUT / f"log-{threading.get_ident()}"
        by, asked = verdict_of(number, found, log)
        note = by or (f"{asked} judges" if asked else "never met")
        report.add(mutants[number]["name"], "caught" if by else "missed", note)

    # In no order, but the same each time: where it is stopped, what was judged is a sample of all.
    order = [n for n in range(len(mutants)) if n not in apart]
    random.Random(1).shuffle(order)
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(judge, order))
    for number in sorted(apart):
        verdict, by = alone(mutants[number], found)
        report.add(mutants[number]["name"], verdict, by or "alone")
    sys.exit(report.end())


if __name__ == "__main__":
    main()
