"""The plots: SVG by hand, one for each row, so that nothing needs to be installed to draw them."""

import json
import pathlib
from html import escape

WIDTH, LEFT, RIGHT, BAR, GAP = 860, 190, 110, 17, 6
OURS, RAW, OTHER, FLOOR = "#c2410c", "#334155", "#94a3b8", "#e2e8f0"
LINES = ["#334155", "#2563eb", "#0d9488", "#a16207", "#7c3aed", "#be185d", "#64748b", "#15803d", "#0369a1"]
STYLE = ("text{font-family:'DejaVu Sans',Verdana,Helvetica,sans-serif;font-size:12px;fill:#0f172a}"
         ".title{font-size:16px;font-weight:bold}.small{font-size:11px;fill:#475569}.ours{font-weight:bold;fill:#9a3412}")


def colour(label):
    return OURS if label.startswith("Doorbell") else RAW if label.startswith(("raw", "a raw", "one raw")) else OTHER


def number(x):
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.1f}" if abs(x) >= 1 else f"{x:.2f}"


def text(x, y, what, kind="", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(what)}</text>'


def footer(row, y):
    machine = row["machine"]
    return text(14, y, f'{machine["cpu"]}, {machine["cpus"]} CPUs, Linux {machine["kernel"]}; {row["date"]}, load '
                       f'{row["load"][0]:.1f}; {row["rounds"]} alternating rounds: medians, quartiles as lines', "small")


def page(height, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} '
            f'{height:.0f}"><style>{STYLE}</style><rect width="100%" height="100%" fill="white"/>'
            + "".join(parts) + "</svg>\n")


def bars(row):
    """A block of bars for each configuration, shortest first. With a floor, the bar begins where the floor ends."""
    floor = row["floor"]
    unit = f'{row["unit"]}; shorter is better' + ("; pale: the reads and writes alone" if floor else "")
    parts = [text(14, 26, row["title"], "title"), text(14, 45, unit, "small")]
    y = 62
    for config, peers in row["summary"].items():
        base = peers[floor]["median"] if floor else 0
        shown = sorted(((label, s) for label, s in peers.items() if label != floor), key=lambda p: p[1]["median"])
        # One peer that is a hundred times slower must not flatten all others: its bar is broken off.
        medians = [s["median"] for _, s in shown]
        most = min(max(medians), 4 * sorted(medians)[len(medians) // 2]) * 1.02
        scale = (WIDTH - LEFT - RIGHT) / most
        if len(row["summary"]) > 1:
            parts.append(text(14, y + 12, config, "small"))
            y += 20
        for label, s in shown:
            median, (low, high) = s["median"], s["quartiles"]
            end = min(median, most)
            parts.append(text(LEFT - 8, y + 13, label, "ours" if colour(label) == OURS else "", "end"))
            if base:
                parts.append(f'<rect x="{LEFT}" y="{y}" width="{min(base, end) * scale:.1f}" height="{BAR}" '
                             f'fill="{FLOOR}"/>')
            begin = min(base, end)
            parts.append(f'<rect x="{LEFT + begin * scale:.1f}" y="{y}" width="{max(end - begin, 0) * scale:.1f}" '
                         f'height="{BAR}" fill="{colour(label)}"/>')
            if median > most:
                x = LEFT + end * scale - 14
                parts.append(f'<path d="M{x:.1f} {y - 1} l6 {BAR + 2} h5 l-6 -{BAR + 2} z" fill="white"/>')
            elif high > low:
                middle, x1, x2 = y + BAR / 2, LEFT + low * scale, LEFT + min(high, most) * scale
                parts.append(f'<path d="M{x1:.1f} {middle} H{x2:.1f} M{x1:.1f} {middle - 4} v8 M{x2:.1f} {middle - 4} '
                             f'v8" stroke="#0f172a" fill="none"/>')
            told = number(median) + (f" (+{number(median - base)})" if base else "")
            at = LEFT + max(end, min(high, most)) * scale + 6
            parts.append(text(at, y + 13, told, "ours" if colour(label) == OURS else "small"))
            y += BAR + GAP
        y += 12
    parts.append(footer(row, y + 6))
    return page(y + 18, parts)


def lines(row):
    """One line for each peer over the configurations, which are numbers on a logarithmic axis."""
    import math
    names = list(row["summary"])
    at = [int(n) for n in names]
    labels = [p for p in row["summary"][names[0]] if p != row["floor"]]
    height, top, bottom, right = 420, 64, 60, 190
    most = max(row["summary"][n][p]["median"] for n in names for p in labels) * 1.05
    x_of = lambda n: 60 + (WIDTH - 60 - right) * math.log(n / at[0]) / math.log(at[-1] / at[0])
    y_of = lambda v: height - bottom - (height - top - bottom) * v / most
    parts = [text(14, 26, row["title"], "title"),
             text(14, 45, f'{row["unit"]}; lower is better; flat is what is wanted', "small")]
    step = 10 ** math.floor(math.log10(most / 3))
    step *= 2 if most / step > 8 else 1
    for i in range(int(most / step) + 1):
        y = y_of(i * step)
        parts.append(f'<path d="M60 {y:.1f} H{WIDTH - right}" stroke="#e2e8f0"/>')
        parts.append(text(54, y + 4, number(i * step) if i else "0", "small", "end"))
    for n in at:
        parts.append(text(x_of(n), height - bottom + 18, f"{n:,}", "small", "middle"))
    named = []
    for i, label in enumerate(labels):
        points = [(x_of(n), y_of(row["summary"][name][label]["median"])) for n, name in zip(at, names)]
        ours = colour(label) == OURS
        ink = OURS if ours else LINES[i % len(LINES)]
        path = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{ink}" stroke-width="{3 if ours else 1.5}"'
                     + (' stroke-dasharray="6 3"' if label.endswith("SLOT") else "") + "/>")
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3 if ours else 2}" fill="{ink}"/>' for x, y in points]
        named.append((points[-1][1], label, ink, ours))
    last = 0
    for y, label, ink, ours in sorted(named):
        place = max(y, last + 15)
        last = place
        parts.append(f'<path d="M{WIDTH - right + 2} {y:.1f} L{WIDTH - right + 20} {place:.1f}" stroke="{ink}"/>')
        parts.append(text(WIDTH - right + 24, place + 4, label, "ours" if ours else ""))
    parts.append(text(60, height - bottom + 36, "watched eventfds", "small"))
    parts.append(footer(row, height - 6))
    return page(height + 4, parts)


def instruction_bars(row):
    """User instructions of W1, and of W1 with a deadline moved on every event."""
    blocks = {"W1": "w1", "W1, an idle deadline moved on every event": "w1t"}
    summary = {}
    for title, key in blocks.items():
        found = {label: c["instructions"] for label, c in row["counts"][key].items() if "instructions" in c}
        summary[title] = {label: dict(median=n, quartiles=[n, n]) for label, n in found.items()}
    fake = dict(row, title="User instructions for each event, its read and write included", unit="instructions",
                summary=summary, floor=None, rounds=1)
    return bars(fake)


def draw_all(folder):
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        row = json.loads(path.read_text())
        if row["row"] == "counts":
            drawing = instruction_bars(row)
        elif row["row"] == "w7e":
            continue
        else:
            drawing = lines(row) if row["shown"] == "lines" and len(row["summary"]) > 1 else bars(row)
        path.with_suffix(".svg").write_text(drawing)
