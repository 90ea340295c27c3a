#!/usr/bin/env python3
"""The benchmark: every row beside its peers, in alternating rounds; writes JSON, plots and the report.

    bench/run.py [ROW...]     the rows to run, all if none is named; QUICK=1 in the environment: fewer, shorter rounds
    bench/run.py --report     only draws the plots and writes the report anew from the JSON

One sample is one process. Ratios are paired: the two samples of one round. A round is all configurations and peers of
a row, one after the other, begun at another peer each time.
"""

import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import plots
import report

HERE = pathlib.Path(__file__).resolve().parent
QUICK = os.environ.get("QUICK", "") not in ("", "0")
PROGRAMS = pathlib.Path(os.environ.get("BENCH_PROGRAMS", HERE / "build"))
FULL = HERE / "results"
# Quick results are for a look: they do not replace the full ones, unless RESULTS says so.
RESULTS = pathlib.Path(os.environ.get("RESULTS") or (HERE / "build" / "quick" if QUICK else FULL)).resolve()

RAW, OURS = "raw", "doorbell"
CPUS = sorted(os.sched_getaffinity(0))
ONE, FREE = {CPUS[-1]}, set(CPUS)

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
MANY = min(19000, (hard - 500) // 1000 * 1000)


def fewer(full, quick):
    return quick if QUICK else full


class Peer:
    """`label` in tables and plots, the program and its variant."""

    def __init__(self, label, program, variant):
        self.label, self.program, self.variant = label, program, variant


class Verdict:
    """Ours against theirs, the median of paired ratios; of several pairs the worst counts. `theirs` None: the value
    itself against the target. `per`: compares two configurations of the same peer."""

    def __init__(self, name, ours, theirs, target, configs=None, overhead=False, metric=None, per=None, why=""):
        self.name, self.ours, self.theirs, self.target = name, ours, theirs, target
        self.configs, self.overhead, self.metric, self.per, self.why = configs, overhead, metric, per, why


class Row:
    def __init__(self, key, title, unit, scale, configs, peers, verdicts, rounds, pin=ONE, seconds=0.6, floor=None,
                 metric="ns", shown=None):
        self.key, self.title, self.unit, self.scale = key, title, unit, scale
        self.configs, self.peers, self.verdicts, self.rounds = configs, peers, verdicts, rounds
        self.pin, self.seconds, self.floor, self.metric, self.shown = pin, seconds, floor, metric, shown


W1_PEERS = [
    Peer("no event manager", RAW, "floor"),
    Peer("raw epoll, edge", RAW, "et"),
    Peer("raw epoll, level", RAW, "lt"),
    Peer("raw epoll, oneshot", RAW, "oneshot"),
    Peer("raw io_uring", "uring", "multishot"),
    Peer("Doorbell, POLL", OURS, "poll"),
    Peer("Doorbell, QUEUE", OURS, "queue"),
    Peer("Doorbell, SLOT", OURS, "slot"),
    Peer("Doorbell, io_uring", OURS, "poll-io_uring"),
    Peer("libev", "libev", "loop"),
    Peer("libuv", "libuv", "loop"),
    Peer("libevent", "libevent", "loop"),
    Peer("mio", "mio", "poll"),
    Peer("polling", "polling", "oneshot"),
    Peer("event-manager", "event-manager", "subscribers"),
    Peer("tokio", "tokio", "tasks"),
]
W1_EVENTS = dict(warm=20000, events=fewer(300000, 60000))
FULL_LIBS = ["libev", "libuv", "libevent"]


def w1_config(n, a):
    return (f"{n}/{a}", dict(n=n, a=a, **W1_EVENTS))


SCALE = [n for n in (100, 300, 1000, 3000, 10000, MANY) if not QUICK or n in (100, 1000, MANY)]
BOTH = ["Doorbell, POLL", "Doorbell, QUEUE"]

ROWS = [
    Row("w1", "W1: one event, N eventfds watched, A active, one thread", "ns per event", 1,
        [w1_config(1000, 100), w1_config(MANY, 100), w1_config(MANY, MANY // 10)], W1_PEERS,
        [Verdict("w1-overhead-epoll", BOTH, ["raw epoll, edge"], 1.05, overhead=True),
         Verdict("w1-overhead-libev-libuv-libevent", BOTH, FULL_LIBS, 0.90, overhead=True),
         Verdict("w1-overhead-slot", ["Doorbell, SLOT"], ["raw epoll, edge"], 1.15, overhead=True),
         Verdict("w1-overhead-io_uring", ["Doorbell, io_uring"], ["raw epoll, edge"], 0.70, overhead=True),
         Verdict("w1-overhead-io_uring-libev-libuv", ["Doorbell, io_uring"], ["libev", "libuv"], 0.60, overhead=True),
         Verdict("w1-growth", BOTH, None, 1.05, per=(f"{MANY}/100", "1000/100"))],
        rounds=fewer(9, 3), seconds=0.6, floor="no event manager"),
    Row("w1-scale", "W1 over the number of watched eventfds, 100 of them active", "ns per event", 1,
        [(str(n), dict(n=n, a=100, **W1_EVENTS)) for n in SCALE],
        [p for p in W1_PEERS if p.label in ("no event manager", "raw epoll, edge", "raw io_uring", "Doorbell, POLL",
                                             "Doorbell, SLOT", "Doorbell, io_uring", "libev", "libuv", "libevent", "mio", "tokio")],
        [], rounds=fewer(3, 1), seconds=0.6, floor="no event manager", shown="lines"),
    Row("w2", "W2: ping-pong of one fd between two threads", "us per round trip", 1e-3,
        [("free", dict(warm=500, events=fewer(20000, 3000))),
         ("one core", dict(warm=500, events=fewer(20000, 3000), pin=1))],
        [Peer("raw read, blocking", RAW, "read"),
         Peer("raw epoll", RAW, "epoll"),
         Peer("raw io_uring", "uring", "multishot"),
         Peer("Doorbell, SLOT", OURS, "slot"),
         Peer("Doorbell, POLL", OURS, "poll"),
         Peer("Doorbell, QUEUE", OURS, "queue"),
         Peer("libev loop", "libev", "loop"),
         Peer("libuv loop", "libuv", "loop"),
         Peer("libevent loop", "libevent", "loop"),
         Peer("mio", "mio", "poll"),
         Peer("polling", "polling", "oneshot"),
         Peer("event-manager", "event-manager", "subscriber"),
         Peer("tokio, block_on", "tokio", "block_on"),
         Peer("dispatcher + futex", RAW, "dispatcher-futex"),
         Peer("dispatcher + eventfd", RAW, "dispatcher-eventfd"),
         Peer("Doorbell, its thread", OURS, "threads"),
         Peer("libuv + semaphore", "libuv", "semaphore"),
         Peer("libev + condvar", "libev", "condvar"),
         Peer("tokio, across threads", "tokio", "threads")],
        [Verdict("w2-slot-epoll", ["Doorbell, SLOT"], ["raw epoll"], 1.15),
         Verdict("w2-slot-libuv", ["Doorbell, SLOT"], ["libuv + semaphore"], 0.30, configs=["free"]),
         Verdict("w2-threads", ["Doorbell, its thread"], ["dispatcher + futex"], 1.0)],
        rounds=fewer(9, 3), pin=FREE, seconds=0.6),
    Row("w3", "W3: register and unregister, 256 at a time", "ns per pair", 1,
        [("256", dict(n=1024, block=256, events=fewer(200000, 40000)))],
        [Peer("raw epoll_ctl", RAW, "ctl"),
         Peer("raw io_uring, batch", "uring", "batch"),
         Peer("Doorbell, one by one", OURS, "single"),
         Peer("Doorbell, batch", OURS, "batch"),
         Peer("Doorbell, io_uring batch", OURS, "batch-io_uring"),
         Peer("libev", "libev", "loop"),
         Peer("libuv", "libuv", "loop"),
         Peer("libevent", "libevent", "loop"),
         Peer("mio", "mio", "poll"),
         Peer("polling", "polling", "poller"),
         Peer("event-manager", "event-manager", "subscribers"),
         Peer("tokio", "tokio", "async_fd")],
        [Verdict("w3-register", ["Doorbell, one by one", "Doorbell, batch"], ["raw epoll_ctl"], 1.10),
         Verdict("w3-register-io_uring-batch", ["Doorbell, io_uring batch"], ["raw epoll_ctl"], 0.60)],
        rounds=fewer(9, 3), seconds=0.5),
    Row("w4", "W4: timeouts armed, half cancelled, a quarter moved, the rest fired", "CPU ns per operation", 1,
        [(f"{n}", dict(n=n)) for n in fewer((10000, 50000, 1000000), (10000,))],
        [Peer("Doorbell", OURS, "poll"), Peer("libev", "libev", "loop"), Peer("libuv", "libuv", "loop"),
         Peer("libevent", "libevent", "loop"), Peer("tokio", "tokio", "sleep")],
        [Verdict("w4-libev", ["Doorbell"], ["libev"], 0.45), Verdict("w4-libuv", ["Doorbell"], ["libuv"], 0.12)],
        rounds=fewer(7, 3), seconds=2.6),
    Row("w4m", "W4: an idle timeout moved later, 10,000 armed", "ns per move", 1,
        [("10000", dict(n=10000, events=fewer(3000000, 500000)))],
        [Peer("Doorbell", OURS, "poll"), Peer("libev, ev_timer_again", "libev", "loop"),
         Peer("libuv", "libuv", "loop"), Peer("libevent", "libevent", "loop"),
         Peer("libevent, common", "libevent", "common"), Peer("tokio", "tokio", "sleep")],
        [Verdict("w4-move-later", ["Doorbell"], ["libev, ev_timer_again"], 0.50)],
        rounds=fewer(9, 3), seconds=0.5),
    Row("w5", "W5: another thread registers and unregisters while the loop sleeps", "us per pair", 1e-3,
        [("free", dict(events=fewer(20000, 4000)))],
        [Peer("raw epoll_ctl", RAW, "ctl"), Peer("Doorbell", OURS, "direct"), Peer("mio", "mio", "registry"),
         Peer("polling", "polling", "poller"), Peer("tokio", "tokio", "async_fd"),
         Peer("libevent, locked", "libevent", "locked"), Peer("libuv, async", "libuv", "async"),
         Peer("libev, async", "libev", "async"), Peer("event-manager", "event-manager", "call_blocking")],
        [Verdict("w5-epoll_ctl", ["Doorbell"], ["raw epoll_ctl"], 1.15),
         Verdict("w5-asked", ["Doorbell"], ["libuv, async", "event-manager"], 0.06)],
        rounds=fewer(9, 3), pin=FREE, seconds=0.4),
    Row("w6", "W6: heap for each registered fd", "bytes", 1, [("10000", dict(n=10000))],
        [Peer("Doorbell, SLOT", OURS, "fds-slot"), Peer("Doorbell, POLL", OURS, "fds-poll"),
         Peer("Doorbell, QUEUE", OURS, "fds-queue"), Peer("libev", "libev", "fds"), Peer("libuv", "libuv", "fds"),
         Peer("libevent", "libevent", "fds"), Peer("mio", "mio", "fds"), Peer("polling", "polling", "fds"),
         Peer("event-manager", "event-manager", "fds"), Peer("tokio, task included", "tokio", "fds")],
        [Verdict("w6-bytes-fd-slot", ["Doorbell, SLOT"], None, 96)], rounds=1, seconds=0.2, metric="bytes"),
    Row("w6t", "W6: heap for each armed timeout", "bytes", 1, [("10000", dict(n=10000))],
        [Peer("Doorbell, FUTEX", OURS, "timeouts-futex"), Peer("Doorbell, POLL", OURS, "timeouts-poll"),
         Peer("Doorbell, SLOT", OURS, "timeouts-slot"), Peer("libev", "libev", "timeouts"),
         Peer("libuv", "libuv", "timeouts"), Peer("libevent", "libevent", "timeouts"),
         Peer("tokio", "tokio", "timeouts")],
        [Verdict("w6-bytes-timeout", ["Doorbell, FUTEX"], None, 48)], rounds=1, seconds=0.2, metric="bytes"),
    Row("w7", "W7: how late a timeout of 100 us is", "us, median", 1e-3,
        [("free", dict(events=fewer(2000, 300)))],
        [Peer("raw epoll_wait", RAW, "epoll_wait"), Peer("raw epoll_pwait2", RAW, "pwait2"),
         Peer("raw epoll_pwait2, slack 1 ns", RAW, "pwait2-exact"), Peer("raw timerfd", RAW, "timerfd"),
         Peer("raw io_uring", "uring", "wait"), Peer("Doorbell, caller", OURS, "poll"),
         Peer("Doorbell, its thread", OURS, "threads"), Peer("libev", "libev", "loop"),
         Peer("libuv", "libuv", "loop"), Peer("libevent", "libevent", "loop"),
         Peer("libevent, precise", "libevent", "precise"), Peer("mio", "mio", "poll"),
         Peer("polling", "polling", "deadline"), Peer("tokio", "tokio", "sleep")],
        [Verdict("w7-caller", ["Doorbell, caller"], ["raw epoll_pwait2"], 1.1),
         Verdict("w7-threads-us", ["Doorbell, its thread"], None, 30)],
        rounds=fewer(7, 3), pin=FREE, seconds=1.4),
    Row("w7e", "W7: how many of a million timeouts fire early", "timeouts", 1,
        [("any", dict(events=fewer(1000000, 100000)))], [Peer("Doorbell", OURS, "early")],
        [Verdict("w7-early", ["Doorbell"], None, 0)], rounds=1, pin=FREE, seconds=2, metric="early"),
    Row("w8", "W8: threads sharing the work, 1,000 eventfds, 100 active", "ns per event", 1,
        [(f"{t} thread" + "s" * (t > 1), dict(threads=t, n=1000, a=100, ms=fewer(400, 150))) for t in (1, 2)],
        [Peer("a raw epoll each", RAW, "each"), Peer("one raw epoll for all", RAW, "shared"),
         Peer("Doorbell, a shard each", OURS, "shards"), Peer("Doorbell, one queue for all", OURS, "queue"),
         Peer("tokio", "tokio", "workers")],
        [Verdict("w8-shards", ["Doorbell, a shard each"], ["a raw epoll each"], 1.10, configs=["2 threads"]),
         Verdict("w8-shared", ["Doorbell, one queue for all"], ["a raw epoll each"], 1.10, configs=["2 threads"])],
        rounds=fewer(9, 3), pin=FREE, seconds=0.6),
]


# ---- one sample


def command(peer, row, options):
    name = {"w1-scale": "w1", "w6t": "w6", "w7e": "w7"}.get(row.key, row.key)
    return [str(PROGRAMS / peer.program), name, peer.variant] + [f"{k}={v}" for k, v in options.items() if k != "pin"]


def run(argv, pin, prefix=()):
    done = subprocess.run([*prefix, *argv], capture_output=True, text=True, timeout=300,
                          preexec_fn=lambda: os.sched_setaffinity(0, pin))
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done


def sample(peer, row, options):
    out = run(command(peer, row, options), ONE if options.get("pin") else row.pin).stdout
    return {name: float(value) for name, value in (line.split() for line in out.splitlines())}


# ---- counts: in runs of their own, the difference between a long run and a short one


def instructions(argv):
    done = run(argv, ONE, ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"])
    return int(re.search(r"Collected : (\d+)", done.stderr).group(1))


def system_calls(argv, pin=ONE):
    with tempfile.NamedTemporaryFile("r") as out:
        run(argv, pin, ["strace", "-f", "-c", "-o", out.name])
        found = {}
        for line in out.read().splitlines():
            words = line.split()
            if len(words) >= 5 and words[0][0].isdigit() and words[-1] != "total":
                found[words[-1]] = int(words[3])
        return found


def count_row(progress):
    """Instructions and system calls for each event of W1, of W1 with a moved deadline, of W2."""
    short, long = 2000, 6000
    events = long - short
    results = {}
    for key, row, peers in COUNTED:
        for peer in peers:
            progress(f"counts {key}: {peer.label}")
            argv = lambda n: [str(PROGRAMS / peer.program), row, peer.variant, *(
                ["warm=500"] if row == "w2" else ["n=1000", "a=100", "warm=1000"]), f"events={n}"]
            entry = results.setdefault(key, {}).setdefault(peer.label, {})
            try:
                if key != "w2":
                    entry["instructions"] = (instructions(argv(long)) - instructions(argv(short))) / events
                few, many = system_calls(argv(short), FREE), system_calls(argv(long), FREE)
                entry["calls"] = {name: round((n - few.get(name, 0)) / events, 4) for name, n in many.items()
                                  if n - few.get(name, 0) > events / 2000}
            except (RuntimeError, subprocess.TimeoutExpired) as e:
                entry["error"] = str(e).splitlines()[0]
    return results


COUNTED = [
    ("w1", "w1", W1_PEERS),
    ("w1t", "w1t", [Peer("raw epoll, edge", RAW, "et"), Peer("Doorbell, by bell_update_timeout", OURS, "poll"),
                    Peer("Doorbell, by a store", OURS, "shared"), Peer("libev", "libev", "loop"),
                    Peer("libuv", "libuv", "loop"), Peer("libevent", "libevent", "loop"), Peer("tokio", "tokio", "tasks")]),
    ("w2", "w2", [Peer("raw epoll", RAW, "epoll"), Peer("Doorbell, SLOT", OURS, "slot"),
                  Peer("Doorbell, its thread", OURS, "threads"), Peer("dispatcher + futex", RAW, "dispatcher-futex"),
                  Peer("libuv + semaphore", "libuv", "semaphore")]),
]


def count_verdicts(counts):
    def of(key, label):
        return counts[key][label]

    def other_calls(label, *names):
        return sum(n for name, n in of("w1", label)["calls"].items() if any(s in name for s in names))

    w1 = [("w1-instructions-poll", of("w1", "Doorbell, POLL")["instructions"], 100),
          ("w1-instructions-queue", of("w1", "Doorbell, QUEUE")["instructions"], 100),
          ("w1-instructions-idle-deadline", of("w1t", "Doorbell, by a store")["instructions"], 110),
          ("w1-instructions-idle-deadline-by-call", of("w1t", "Doorbell, by bell_update_timeout")["instructions"], 110)]
    for label in BOTH + ["Doorbell, SLOT"]:
        short = label.split(", ")[1].lower()
        w1 += [(f"w1-syscalls-ctl-{short}", other_calls(label, "epoll_ctl", "futex"), 0),
               # A batch takes all 100 that are active.
               (f"w1-syscalls-waits-for-a-batch-{short}", 100 * other_calls(label, "epoll_wait", "epoll_pwait"), 1.0)]
    return [dict(name=name, ratio=round(value, 3), target=target, holds=value <= target + 0.005 * target)
            for name, value, target in w1]


# ---- rounds and verdicts


def spread(values):
    ordered = sorted(values)
    return dict(median=statistics.median(ordered), low=ordered[0], high=ordered[-1],
                quartiles=[ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]])


def run_rounds(row, progress):
    samples = {name: {p.label: [] for p in row.peers} for name, _ in row.configs}
    for round_ in range(row.rounds):
        for config, options in row.configs:
            turn = round_ % len(row.peers)
            for peer in row.peers[turn:] + row.peers[:turn]:
                progress(f"{row.key} {config}: round {round_ + 1}/{row.rounds}, {peer.label}", row.seconds)
                samples[config][peer.label].append(sample(peer, row, options))
    return samples


def values(samples, row, config, label, overhead=False):
    found = [s[row.metric] * row.scale for s in samples[config][label]]
    if overhead:
        floor = [s[row.metric] * row.scale for s in samples[config][row.floor]]
        found = [f - g for f, g in zip(found, floor)]
    return found


def judge(row, verdict, samples):
    if not verdict.ours:
        return dict(name=verdict.name, ratio=None, target=verdict.target, holds=None, why=verdict.why)
    pairs = []
    for ours in verdict.ours:
        if verdict.per:
            big, small = (values(samples, row, c, ours) for c in verdict.per)
            pairs.append((f"{ours}, {verdict.per[0]} against {verdict.per[1]}", [b / s for b, s in zip(big, small)]))
            continue
        for config in verdict.configs or [name for name, _ in row.configs]:
            mine = values(samples, row, config, ours, verdict.overhead)
            if verdict.theirs is None:
                pairs.append((f"{ours}, {config}", mine))
            for theirs in verdict.theirs or []:
                other = values(samples, row, config, theirs, verdict.overhead)
                pairs.append((f"{ours} / {theirs}, {config}", [a / b for a, b in zip(mine, other)]))
    detail = {name: spread(ratios) for name, ratios in pairs}
    worst = max(detail, key=lambda name: detail[name]["median"])
    ratio = detail[worst]["median"]
    return dict(name=verdict.name, ratio=round(ratio, 3), target=verdict.target, holds=ratio <= verdict.target,
                worst=worst, detail=detail)


def verdict_line(v):
    ratio = "-" if v["ratio"] is None else f"{v['ratio']:g}"
    if v["holds"] is None:
        return f"row {v['name']}: ratio={ratio} target={v['target']:g} not measured: {v['why']}"
    return f"row {v['name']}: ratio={ratio} target={v['target']:g} {'holds' if v['holds'] else 'falls short'}"


def output(*argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True, cwd=HERE).stdout.strip()
    except FileNotFoundError:
        return ""


def machine():
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    lock = (HERE / "rust" / "Cargo.lock").read_text()
    crate = lambda name: re.search(rf'name = "{name}"\nversion = "(.*)"', lock).group(1)
    package = lambda name: output("dpkg-query", "-W", "-f=${Version}", name) or "?"
    versions = {name: crate(name) for name in ("mio", "polling", "tokio", "event-manager")}
    versions |= {"libev": package("libev-dev"), "libuv": package("libuv1-dev"), "libevent": package("libevent-dev"),
                 "liburing": package("liburing-dev"), "cc": output("cc", "-dumpfullversion"),
                 "rustc": output("rustc", "-V").split(" ")[1],
                 "doorbell": output("git", "describe", "--always", "--dirty", "--exclude=*")}
    return dict(cpu=cpu.group(1) if cpu else os.uname().machine, cpus=len(CPUS), kernel=os.uname().release,
                versions=versions)


class Progress:
    def __init__(self, seconds):
        self.planned, self.done, self.begun, self.shown = seconds, 0.0, time.monotonic(), 0.0

    def __call__(self, what, seconds=1.5):
        spent = time.monotonic() - self.begun
        left = (self.planned - self.done) * (spent / self.done if self.done > 5 else 1)
        self.done += seconds
        if sys.stderr.isatty() or time.monotonic() - self.shown > 10:
            self.shown = time.monotonic()
            text = f"[{int(spent) // 60}:{int(spent) % 60:02}, {max(left, 0) / 60:.1f} min left] {what}"
            print(f"\r\x1b[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n",
                  file=sys.stderr, flush=True)


def main():
    if sys.argv[1:] == ["--report"]:
        plots.draw_all(RESULTS)
        report.write(RESULTS, HERE / "REPORT.md")
        return 0
    known = [r.key for r in ROWS] + ["counts"]
    wanted = sys.argv[1:] or known
    rows = [r for r in ROWS if any(r.key == w or re.fullmatch(rf"{w}[a-z-].*", r.key) for w in wanted)]
    counting = "counts" in wanted or "w1" in wanted
    if not rows and not counting:
        sys.exit(f"bench: no row {' '.join(wanted)}; there are {' '.join(known)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    planned = sum(len(r.configs) * len(r.peers) * r.rounds * r.seconds for r in rows)
    planned += counting * sum(len(peers) for *_, peers in COUNTED) * 1.5
    progress = Progress(planned)
    lines = []

    def save(key, result, verdicts):
        common = dict(row=key, date=time.strftime("%Y-%m-%d %H:%M"), quick=QUICK, machine=machine(),
                      load=[before, os.getloadavg()[0]])
        (RESULTS / f"{key}.json").write_text(json.dumps({**common, **result, "verdicts": verdicts}, indent=1) + "\n")
        for v in verdicts:
            lines.append(verdict_line(v))
            print(f"{lines[-1]}   (load {before:.1f} to {os.getloadavg()[0]:.1f})", flush=True)

    for row in rows:
        before = os.getloadavg()[0]
        samples = run_rounds(row, progress)
        summary = {config: {p.label: spread(values(samples, row, config, p.label)) for p in row.peers}
                   for config, _ in row.configs}
        extra = {config: {p.label: {k: statistics.median(s[k] for s in found) for k in found[0] if k != row.metric}
                          for p in row.peers if (found := samples[config][p.label])} for config, _ in row.configs}
        result = dict(title=row.title, unit=row.unit, rounds=row.rounds, floor=row.floor, shown=row.shown,
                      summary=summary, counts=extra,
                      samples={c: {p: [round(s[row.metric], 3) for s in v] for p, v in by.items()}
                               for c, by in samples.items()})
        save(row.key, result, [judge(row, v, samples) for v in row.verdicts])
    if counting:
        before = os.getloadavg()[0]
        counts = count_row(progress)
        save("counts", dict(title="Counts for each event", unit="", counts=counts), count_verdicts(counts))
    plots.draw_all(RESULTS)
    if RESULTS == FULL:
        report.write(RESULTS, HERE / "REPORT.md")
    print(f"\n{len(lines)} verdicts, {time.monotonic() - progress.begun:.0f} s; results and plots are in {RESULTS}")
    for line in lines:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
