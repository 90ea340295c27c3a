#!/usr/bin/env python3
"""Counts that must not grow unseen: instructions, system calls and bytes, not times, so a busy machine does not matter.

Each count is the difference between a long run and a short one of build/doorbell, divided by the operations between
them. The limits are a little above what was measured when they were last changed. Who makes something cheaper lowers
the limit with it; who has a reason to make it dearer raises it, and says why in the commit.
"""

import concurrent.futures
import pathlib
import re
import subprocess
import sys
import tempfile

PROGRAM = pathlib.Path(__file__).resolve().parent / "build" / "doorbell"

W1 = dict(n=200, a=100, warm=400)
W3 = dict(n=256, block=64)

# User instructions of an operation, reads, writes and the caller's loop included. (limit, row, variant, options, the
# option that is made longer, from, to, operations in each)
INSTRUCTIONS = {
    "an event to POLL": (94, "w1", "poll", W1, "events", 1000, 5000, 1),
    "an event to SLOT": (157, "w1", "slot", W1, "events", 1000, 5000, 1),
    "an event to QUEUE": (99.5, "w1", "queue", W1, "events", 1000, 5000, 1),
    "an event to POLL, its deadline moved": (214, "w1t", "poll", W1, "events", 1000, 5000, 1),
    "an event to POLL, its deadline moved by a store": (101, "w1t", "shared", W1, "events", 1000, 5000, 1),
    "an fd registered and unregistered": (1048, "w3", "single", W3, "events", 1024, 4096, 1.125),
    "a timeout moved later": (134, "w4m", "poll", dict(n=100), "events", 1000, 9000, 1.125),
    "a timeout armed, then cancelled, moved or fired": (650, "w4", "poll", {}, "n", 1000, 4000, 2.25),
}

# System calls of an operation: which are counted (all if None), and how many there may be.
SYSTEM_CALLS = {
    # One wait; and all: a read and a write for each event, and the wait.
    "a batch of 100 to POLL: waits": (1, r"epoll_p?wait", "w1", "poll", W1, "events", 2000, 6000, 0.01),
    "a batch of 100 to SLOT: waits": (1, r"epoll_p?wait", "w1", "slot", W1, "events", 2000, 6000, 0.01),
    "a batch of 100 to QUEUE: waits": (1, r"epoll_p?wait", "w1", "queue", W1, "events", 2000, 6000, 0.01),
    "a batch of 100 to POLL: all": (201.5, None, "w1", "poll", W1, "events", 2000, 6000, 0.01),
    "a batch of 100 to SLOT: all": (201.5, None, "w1", "slot", W1, "events", 2000, 6000, 0.01),
    "a batch of 100 to QUEUE: all": (201.5, None, "w1", "queue", W1, "events", 2000, 6000, 0.01),
    # The three reads (one finds nothing) and two writes of both sides, and one wait.
    "a round trip to a waiter that drives": (6, None, "w2", "slot", dict(warm=100), "events", 500, 2500, 1),
    "a round trip to a waiter that drives: wake-ups": (0, r"futex", "w2", "slot", dict(warm=100), "events", 500, 2500, 1),
    "a round trip by a library thread: wake-ups": (2, r"futex", "w2", "threads", dict(warm=100), "events", 500, 2500, 1),
    "an fd registered and unregistered": (2, None, "w3", "single", W3, "events", 1024, 4096, 1.125),
    "an fd registered and unregistered while the driver sleeps": (2, None, "w5", "direct", {}, "events", 800, 2400, 1.125),
    "a timeout moved later": (0, None, "w4m", "poll", dict(n=100), "events", 1000, 9000, 1.125),
}

# Bytes of heap for each of 10,000, by mallinfo2: vectors that grow by doubling are counted as they are.
BYTES = {
    "an fd with a slot": (83, "fds-slot"),
    "an fd with target POLL": (112, "fds-poll"),
    "an fd with target QUEUE": (112, "fds-queue"),
    "a timeout with target FUTEX": (59, "timeouts-futex"),
    "a timeout with target SLOT": (72, "timeouts-slot"),
    "a timeout with target POLL": (100, "timeouts-poll"),
}


def run(prefix, row, variant, options):
    argv = [*prefix, str(PROGRAM), row, variant, *(f"{k}={v}" for k, v in options.items())]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        sys.exit(f"counters: {' '.join(argv)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done


def instructions(row, variant, options):
    done = run(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"], row, variant, options)
    return int(re.search(r"Collected : (\d+)", done.stderr).group(1))


def system_calls(pattern, row, variant, options):
    # The least of three: two threads may wait for each other now and then, some hundred futex calls in a run, and that
    # of the short run must not hide what the long one has.
    return min(system_calls_once(pattern, row, variant, options) for _ in range(3))


def system_calls_once(pattern, row, variant, options):
    with tempfile.NamedTemporaryFile("r") as out:
        run(["strace", "-f", "-c", "-o", out.name], row, variant, options)
        rows = [line.split() for line in out.read().splitlines()]
    return sum(int(w[3]) for w in rows
               if len(w) >= 5 and w[0][0].isdigit() and w[-1] != "total" and re.match(pattern or "", w[-1]))


def difference(count, options, longer, short, long, each):
    few, many = (count({**options, longer: n}) for n in (short, long))
    return (many - few) / ((long - short) * each)


def main():
    works = []
    for name, (limit, row, variant, options, *length) in INSTRUCTIONS.items():
        count = lambda o, row=row, variant=variant: instructions(row, variant, o)
        works.append(("instructions", name, limit, lambda c=count, o=options, l=length: difference(c, o, *l)))
    for name, (limit, pattern, row, variant, options, *length) in SYSTEM_CALLS.items():
        count = lambda o, p=pattern, row=row, variant=variant: system_calls(p, row, variant, o)
        works.append(("system calls", name, limit, lambda c=count, o=options, l=length: difference(c, o, *l)))
    for name, (limit, variant) in BYTES.items():
        works.append(("bytes", name, limit,
                      lambda v=variant: float(run([], "w6", v, dict(n=10000)).stdout.split()[1])))
    over = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for (kind, name, limit, _), value in zip(works, pool.map(lambda w: w[3](), works)):
            # A call or two at the ends of a run are not an operation's.
            bad = value > limit + (0.02 if kind == "system calls" else 0)
            over += bad
            print(f"{'OVER ' if bad else '     '}{kind + ':':13} {name}: {value:.2f} (limit {limit})", flush=True)
    if over:
        print(f"counters: {over} over the limit (bench/counters.py says what to do)")
    return over > 0


if __name__ == "__main__":
    sys.exit(main())
