#!/usr/bin/env python3
"""cargo-mutants over the core (cargo-mutants.toml says which files): is each operator and each result watched?

A mutant has two judges. First the unit tests and a short run of the simulator, run by cargo-mutants itself: seconds for
each. Those that live are put to the unit tests over the real kernel and to the C programs, up to the first that fails.
What is left is explained in mutants/EXPLAINED.md, or it is a hole, and told. Ends with 1 if less than 90 % are caught
or explained.

usage: cargo-mutants.py FOLDER [options of cargo-mutants]     FOLDER: for what is built
  SHARD=0/50   every 50th mutant, from the first on (a whole run takes half a day)
  JOBS=2       so many at a time; STEPS=400000 of the simulator for each
"""

import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = pathlib.Path(sys.argv[1]).resolve() / "cargo-mutants"
CARGO = os.environ.get("CARGO", "cargo")
SIM, POLL = "--cfg doorbell_sim", '--cfg doorbell_backend="poll"'
BACKENDS = {
    "epoll": (SIM, ["--config", "proof/cargo-mutants.toml", "--exclude", "src/backend/poll.rs"]),
    "poll": (f"{SIM} {POLL} --cfg doorbell_small_generations", ["--no-config", "--file", "src/backend/poll.rs"]),
}
WANTED = 90.0
# Builds fast, runs fast enough, and checks itself.
PROFILE = dict(LTO="off", CODEGEN_UNITS="16", INCREMENTAL="true", OPT_LEVEL="1", DEBUG="false", DEBUG_ASSERTIONS="true")
ENVIRONMENT = dict(os.environ, **{f"CARGO_PROFILE_RELEASE_{k}": v for k, v in PROFILE.items()})
for name in ("CARGO_TARGET_DIR", "SEED", "MAKEFLAGS"):
    ENVIRONMENT.pop(name, None)
ENVIRONMENT["STEPS"] = os.environ.get("STEPS") or "400000"


def first_judge(backend, flags, options):
    """Outcomes of cargo-mutants: (name, summary, diff)."""
    out = OUT / backend
    shutil.rmtree(out / "mutants.out.old", ignore_errors=True)
    (OUT / "tmp").mkdir(parents=True, exist_ok=True)
    print(f"cargo-mutants: the simulator over {backend}", flush=True)
    done = subprocess.run(
        [CARGO, "mutants", "--package", "doorbell", "--profile", "release",
         "--cargo-arg=--lib", "--timeout", "60", "--build-timeout", "600", "--sharding", "round-robin", "--shard",
         os.environ.get("SHARD") or "0/1", "--jobs", os.environ.get("JOBS") or "1", "--colors=never", "--output", out,
         *options, *sys.argv[2:]],
        cwd=ROOT, env=dict(ENVIRONMENT, RUSTFLAGS=flags, TMPDIR=str(OUT / "tmp")))
    # 2: some were missed, 3: some took too long.
    if done.returncode not in (0, 2, 3):
        sys.exit("cargo-mutants: FAILED (is it there? cargo install --locked cargo-mutants)")
    file = out / "mutants.out" / "outcomes.json"
    for o in json.loads(file.read_text())["outcomes"] if file.exists() else []:
        if o["scenario"] != "Baseline":
            yield o["scenario"]["Mutant"]["name"], o["summary"], out / "mutants.out" / o["diff_path"]


def succeeds(log, limit, *command, **more):
    with open(log, "w") as file:
        more.update(stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
        process = subprocess.Popen(command, **more)
        try:
            return process.wait(limit) in (0, 77)
        except subprocess.TimeoutExpired:
            return False
        finally:
            # Its children too.
            try:
                os.killpg(process.pid, 9)
            except ProcessLookupError:
                pass
            process.wait()


seconds = {}


def second_judge(backend, flags, diff):
    """Who notices, or None."""
    if diff and backend not in seconds:
        seconds[backend] = {}
        by = second_judge(backend, flags, None)
        if by:
            sys.exit(f"cargo-mutants: {by} fails without a mutant")
    tree, built = OUT / f"{backend}-tree", OUT / f"{backend}-c"
    tree.mkdir(exist_ok=True)
    shutil.rmtree(tree / "src", ignore_errors=True)
    for name in ("src", "include"):
        shutil.copytree(ROOT / name, tree / name, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for name in ("Cargo.lock", "build.rs"):
        shutil.copy(ROOT / name, tree)
    # A package alone: the C tests stay where they are.
    manifest = (ROOT / "Cargo.toml").read_text()
    (tree / "Cargo.toml").write_text(re.sub(r"(?m)^members = .*", 'members = ["."]', manifest))
    if diff:
        subprocess.run(["patch", "-s", "-p0", "-i", diff], cwd=tree, check=True)
    log = OUT / f"{backend}-log"

    def cargo(*a):
        command = [CARGO, *a, "-q", "--release", "--lib", "--target-dir", built]
        return succeeds(log, 600, *command, cwd=tree, env=dict(ENVIRONMENT, RUSTFLAGS=flags))

    if not cargo("test"):
        return "unit tests"
    if not cargo("build", "--features", "test-hooks"):
        sys.exit(f"cargo-mutants: {diff} does not build: {log}")
    so = built / "release" / "libdoorbell.so"
    programs = so.parent / "c-tests"
    # static_link has the library inside.
    names = sorted(p.stem for p in (ROOT / "c-tests" / "c").glob("*.c") if p.stem != "static_link")
    if not diff:  # as they are now; from then on a mutant's library is found under the same name
        made = [programs / n for n in names]
        subprocess.run(["make", "-s", "-C", "c-tests", f"SO={so}", *made], cwd=ROOT, check=True)
    # The quick ones first, and not the very long: without a mutant it was measured how long each takes.
    took = seconds[backend]
    for name in sorted((n for n in names if took.get(n, 0) < 20), key=lambda n: took.get(n, 0)):
        start = time.monotonic()
        if not succeeds(log, 100, programs / name, so, cwd=programs):
            return name
        if not diff:
            took[name] = time.monotonic() - start
    return None


def without_place(name):
    """src/a.rs:1:2: replace x with y in f -> src/a.rs: replace x with y in f"""
    return re.sub(r":\d+:\d+:", ":", name)


def main():
    explained = set(re.findall(r"(?m)^- `(.*)`", (ROOT / "proof/mutants/EXPLAINED.md").read_text()))
    counts = collections.defaultdict(collections.Counter)
    for backend, (sim_flags, options) in BACKENDS.items():
        outcomes = list(first_judge(backend, sim_flags, options))
        missed = sum(summary == "MissedMutant" for _, summary, _ in outcomes)
        print(f"cargo-mutants: unit tests and C programs, for {missed} that live", flush=True)
        for name, summary, diff in outcomes:
            verdict = {"CaughtMutant": "caught", "Timeout": "timeout", "Unviable": "unviable"}.get(summary, "missed")
            if verdict == "missed":
                # What both backends share may show over poll(2) only.
                by = backend == "epoll" and second_judge("epoll", "", diff) or second_judge("poll", POLL, diff)
                verdict = "caught" if by else "explained" if without_place(name) in explained else "missed"
                print(f"{verdict} {name}{f' ({by})' if by else ''}", flush=True)
            counts[name.split(":")[0]][verdict] += 1
    kinds = ("caught", "timeout", "explained", "missed", "unviable")
    print(f"{'file':<26}" + "".join(f"{k:>11}" for k in kinds))
    total = collections.Counter()
    for file, of in sorted(counts.items()):
        print(f"{file:<26}" + "".join(f"{of[k]:11}" for k in kinds))
        total += of
    judged = sum(total[k] for k in kinds[:4])
    # One that does not end is noticed.
    good = total["caught"] + total["timeout"]
    print(f"cargo_mutants={judged} caught={good} explained={total['explained']} missed={total['missed']} "
          f"unviable={total['unviable']} percent={100 * good / max(judged, 1):.1f}")
    sys.exit(100 * (good + total["explained"]) < WANTED * judged)


if __name__ == "__main__":
    main()
