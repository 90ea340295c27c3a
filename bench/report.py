"""The report page, made from the JSON of each row: nothing in it is written by hand but the sentences below and what
TRIED.md says."""

import json
import pathlib

ABOUT = {
    "w1": "N eventfds are watched, A of them are active; one thread waits, reads each that is ready and writes it full "
          "again. *Overhead* is what is left of the time after the same reads and writes without any waiting are taken "
          "away: what an event manager can be blamed for. Pinned to one CPU.",
    "w1-scale": "The same, from a hundred watched eventfds to the limit.",
    "w2": "One thread sends a byte, another one echoes it with blocking calls, the first one waits for it: below the "
          "line of each library the thread that waits drives the loop itself, or is told by a thread that does "
          "(dispatcher, its thread, semaphore, condvar, across threads).",
    "w3": "Blocks of 256 registered, then unregistered. libev leaves the removal out until the fd is used again.",
    "w4": "CPU time of the thread, so that sleeping for the deadlines does not count. Deadlines lie at random within a "
          "second.",
    "w4m": "What a server does at each event of a connection: its idle timeout is put off. Doorbell's is asked through "
           "the C interface by handle; tokio's `Sleep` is reset in place.",
    "w5": "Effective when the call returns. A loop that may only be touched by its own thread is asked and answers.",
    "w6": "The difference of `mallinfo2` for 10,000, the watchers of the caller included where the library embeds them "
          "in his structs. mio and polling keep nothing.",
    "w6t": "As above. FUTEX (a word of the caller's) needs nothing beside the timeout itself; POLL keeps a place in the "
           "list of news, SLOT a pair of words.",
    "w7": "One timeout after the other, 100 us ahead; how late the thread that waits for it runs.",
    "w8": "Eventfds as in W1; the threads run on two CPUs.",
    "counts": "Counted by callgrind and strace in runs of their own: a long run less a short one, divided by the events "
              "between them.",
}
ORDER = ["w1", "w1-scale", "w2", "w3", "w4", "w4m", "w5", "w6", "w6t", "w7", "w7e", "w8", "counts"]


def number(x):
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.2f}"


def verdict_cells(v):
    if v["holds"] is None:
        return f'| `{v["name"]}` | | {v["target"]:g} | not measured: {v["why"]} |'
    return f'| `{v["name"]}` | {v["ratio"]:g} | {v["target"]:g} | {"holds" if v["holds"] else "**falls short**"} |'


def table(row):
    out = []
    for config, peers in row["summary"].items():
        floor = peers[row["floor"]]["median"] if row["floor"] else None
        extra = row["counts"].get(config, {})
        switches = any("voluntary_switches" in e for e in extra.values())
        head = ["", row["unit"], "quartiles"] + (["overhead"] if floor else [])
        head += ["CPU ns", "switches"] if switches else []
        out += ["", f"{config}:", "", f'| {" | ".join(head)} |', "|---" * len(head) + "|"]
        for label, s in sorted(peers.items(), key=lambda p: p[1]["median"]):
            cells = [label, number(s["median"]), " to ".join(number(q) for q in s["quartiles"])]
            if floor:
                cells.append("" if label == row["floor"] else number(s["median"] - floor))
            if switches:
                cells.append(number(extra[label]["cpu_ns"]) if "cpu_ns" in extra[label] else "")
                cells.append(f'{extra[label].get("voluntary_switches", 0):.2f}')
            out.append(f'| {" | ".join(cells)} |')
    return out


def count_table(row):
    out = []
    titles = {"w1": "W1, an event", "w1t": "W1 with an idle deadline moved, an event", "w2": "W2, a round trip"}
    for key, peers in row["counts"].items():
        out += ["", f"{titles[key]}:", "", "| | user instructions | system calls |", "|---|---|---|"]
        for label, c in peers.items():
            calls = ", ".join(f"{name} {n:g}" for name, n in sorted(c.get("calls", {}).items(), key=lambda p: -p[1]))
            told = number(c["instructions"]) if "instructions" in c else ""
            out.append(f'| {label} | {told} | {c.get("error", calls)} |')
    return out


def verdict(row):
    if row["figure"] is None:
        return f'| {row["target"]} | not measured'
    return f'{row["figure"]:g} | {row["target"]} | {"holds" if row["holds"] else "**falls short**"}'


def haskell_rows(path):
    """The rows of `make bench-haskell`, as it has left them."""
    found = sorted((path.parent.parent / "haskell-bindings" / "bench" / "results").glob("g*.json"))
    out = ["", "## G1 to G5: the Haskell package beside GHC's own manager",
           "", "Measured by `make bench-haskell`; what the rows mean stands there."] if found else []
    for file in found:
        run = json.loads(file.read_text())
        plot = file.with_suffix(".svg")
        out += ["", f'{file.stem.upper()}, {run["date"]}, GHC {run["ghc"]}, load {run["load_before"].split()[0]}'
                + (f', {run["mode"]}' if run.get("mode") else "") + ":"]
        if plot.exists():
            out += ["", f'![{file.stem}](../{plot.relative_to(path.parent.parent)})']
        out += ["", "| row | | target | |", "|---|---|---|---|"]
        out += [f'| `{r["row"]}` | {verdict(r)} |'
                for r in run["rows"]]
    return out


def write(folder, path):
    folder, path = pathlib.Path(folder), pathlib.Path(path)
    rows = [json.loads((folder / f"{key}.json").read_text()) for key in ORDER if (folder / f"{key}.json").exists()]
    if not rows:
        return
    machine = rows[0]["machine"]
    dates = sorted(r["date"] for r in rows)
    loads = sorted(load for r in rows for load in r["load"])
    out = ["# Doorbell beside its peers", "",
           "Made by `make bench`; do not edit. What the rows mean and how they are measured: [README.md](README.md).", "",
           f'{machine["cpu"]}, {machine["cpus"]} CPUs, Linux {machine["kernel"]}; '
           + ", ".join(f"{k} {v}" for k, v in machine["versions"].items()) + ".",
           f"Measured {dates[0]} to {dates[-1]}. Load average {loads[0]:.1f} to {loads[-1]:.1f} "
           f"(the benchmark itself adds up to 1, in rows with two threads 2).", ""]
    if loads[-1] > 3.5:
        out += ["**The machine was not quiet: other work ran beside. Times are above what they would be, ratios are "
                "uncertain; counts and bytes are not touched by that.**", ""]
    if any(r["quick"] for r in rows):
        out += ["**Quick rounds (`QUICK=1`): fewer and shorter than those of a full run.**", ""]
    out += ["Ratios are ours to theirs in the same round, the median of all rounds, the worst of the pairs that the row "
            "names; lower is better.", "", "| row | ratio or value | target | |", "|---|---|---|---|"]
    out += [verdict_cells(v) for row in rows for v in row["verdicts"]]
    for row in rows:
        if row["row"] == "w7e":
            continue
        out += ["", f'## {row["title"]}', "", ABOUT.get(row["row"], ""), "", f'![{row["title"]}](results/{row["row"]}.svg)',
                "", "<details><summary>The numbers</summary>"]
        out += count_table(row) if row["row"] == "counts" else table(row)
        pairs = [(name, s) for v in row["verdicts"] for name, s in v.get("detail", {}).items()]
        if pairs:
            out += ["", "| paired | median | quartiles |", "|---|---|---|"]
            out += [f'| {n} | {s["median"]:.3f} | {s["quartiles"][0]:.3f} to {s["quartiles"][1]:.3f} |' for n, s in pairs]
        out += ["", "</details>"]
    out += haskell_rows(path)
    tried = path.parent / "TRIED.md"
    out += ["", tried.read_text().rstrip()] if tried.exists() else []
    path.write_text("\n".join(out) + "\n")
