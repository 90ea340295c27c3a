#!/usr/bin/env python3
"""Writes the manual pages: one for each function and struct of doorbell.h, and doorbell(7).

Usage: docs/man.py FOLDER, which gets man3/ and man7/. `--list` instead of a folder: the names of the functions and
whether they block ([N] or [B]), for the tests.

The header is the manual; what a page says stands in a comment there. doorbell.7.md is the overview, with lines like
`@constants BELL_E_` where the header knows better. A page gets its EXAMPLES from blocks of docs/*.md whose first line
names it: ```c man=bell_poll,bell_wake (c-tests/docs.sh compiles and runs them)."""
import errno
import os
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
VERSION = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]


class Header:
    """What doorbell.h declares: name -> (C text, comment)."""

    def __init__(self, path):
        self.constants, self.structs, self.types, self.functions = {}, {}, {}, {}
        text = path.read_text()
        self.preamble = re.sub(r"^ \* ?", "", text[: text.index("*/")], flags=re.M)
        # The inline function at the end, in the shape of the others.
        inline = re.search(r"/\*\* (.*?) \*/\nstatic inline (.*?)\n\{", text, re.S)
        declarations = text[text.index("*/") : inline.start()]
        comment = []
        lines = iter(declarations.splitlines())
        for line in lines:
            if line.startswith("//"):
                comment.append(line[3:])
                continue
            if constant := re.match(r"#define (BELL_\w+) (.+)", line):
                self.constants[constant[1]] = constant[2], comment
            elif struct := re.match(r"typedef struct (\w+) \{", line):
                body, fields, about = [line], [], []
                while not line.startswith("}"):
                    line = next(lines)
                    body.append(line)
                    if line.startswith("    //"):
                        about.append(line[7:])
                    elif field := not line.startswith("}") and re.search(r"(\w+)(\[\d+\])?(\)\(.*\))?;$", line):
                        fields.append((field[1], about))
                        about = []
                self.structs[struct[1]] = "\n".join(l for l in body if not l.startswith("    //")), comment, fields
            elif name := re.match(r"typedef .*?(\w+);", line):
                self.types[name[1]] = line, comment
            elif name := re.match(r"\w.*?(bell_\w+)\(", line):
                text = line
                while not text.endswith(";"):
                    text += " " + next(lines).strip()
                self.functions[name[1]] = text, comment
            comment = []
        name = re.search(r"(\w+)\(", inline[2])[1]
        self.functions[name] = "static inline " + inline[2] + ";", re.sub(r"\n \*  ?", "\n", inline[1]).splitlines()

    def page_of(self, name):
        return name + "(3)" if name in self.functions | self.structs | self.types else None


def plain(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.M)


def roff(text):
    """Text with Markdown's `code`, *stress*, [links](there) in the language of man(7)."""
    text = plain(text)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    return re.sub(r"(?<![\w/*])\*(\w[^*]*)\*(?!\w)", r"\\fI\1\\fR", text)


def verbatim(text):
    return ".PP\n.in +4n\n.nf\n" + plain(text.rstrip("\n")) + "\n.fi\n.in\n"


def item(term, text):
    return f".TP\n\\fB{roff(term)}\\fR\n{roff(text) or chr(92) + '&'}\n"


def paragraphs(lines):
    """A comment, or a piece of Markdown: paragraphs, - lists, | tables |, indented code."""
    out, text, previous = [], [], ".SH"
    blocks = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    for block in blocks:
        if block.startswith("    "):
            out.append(verbatim("\n".join(l[4:] for l in block.split("\n"))))
        elif block.startswith("- "):
            for bullet in re.split(r"\n(?=- )", block):
                out.append(".IP \\(bu 2\n" + roff(" ".join(bullet[2:].split())) + "\n")
        elif block.startswith("|"):
            for row in block.split("\n")[2:]:
                first, *rest = (cell.strip() for cell in row.strip("|").split("|"))
                out.append(item(first.strip("`"), ". ".join(rest)))
        else:
            out.append(".PP\n" + roff(" ".join(block.split())) + "\n")
    return "".join(out)


def split_comment(comment):
    """A function's comment: what it does, how it may be called ([N] or [B], threads), its errors."""
    text, _, errors = "\n".join(comment).partition("\n\nErrors")
    sentence = re.search(r"(?:^|(?<=[.)`;:] ))\[[NB]\]", " ".join(text.split()))
    text = " ".join(text.split())
    if not sentence:
        sys.exit(f"man.py: neither [N] nor [B]: {text}")
    return text[: sentence.start()], text[sentence.start() :], errors


def capital(text):
    return text[:1].upper() + text[1:]


def short(text):
    """The line of NAME."""
    first = re.sub(r"^Returns ", "", re.split(r"(?<=[\w)`\"])[.:;] ", text + " ")[0]).rstrip(".: ")
    if first[1:2].islower() or first[1:2] == " ":
        first = first[0].lower() + first[1:]
    return first.replace("`", "")


def page(name, section, body, see):
    stamp = os.environ.get("SOURCE_DATE_EPOCH") or (ROOT / "include/doorbell.h").stat().st_mtime
    date = time.strftime("%Y-%m-%d", time.gmtime(int(float(stamp))))
    head = f".\\\" Made by docs/man.py from include/doorbell.h.\n.TH {name} {section} {date} \"Doorbell {VERSION}\"\n"
    head += ".nh\n.ad l\n"
    links = ",\n".join(".BR " + link.replace("(", " (") for link in see)
    # man(7) fills paragraphs itself: a .PP right after a heading is one too many.
    body = re.sub(r"(\.SH .*\n|\.SS .*\n)\.PP\n", r"\1", body)
    return head + body + (".SH SEE ALSO\n" + links + "\n" if see else "")


def see_also(header, own, text):
    names = dict.fromkeys(re.findall(r"\bbell_[a-z_]+", text))
    pages = [header.page_of(n) for n in names if n != own]
    return [p for p in pages if p] + ["doorbell(7)"]


def prototype(text):
    if len(text) <= 78:
        return text
    start, arguments = text.split("(", 1)
    return start + "(\n    " + ",\n    ".join(arguments.split(", "))


def meaning(header, codes):
    """What an error means when the function has nothing to add."""
    first = codes.split(",")[0]
    if first in header.constants:
        return capital(re.sub(r"^Error: ", "", " ".join(header.constants[first][1])))
    return os.strerror(getattr(errno, first[1:])) + "."


def error_list(header, errors):
    """"; after which nothing has changed: `-EINVAL` null; `BELL_E_STALE`; those of `close(2)`"."""
    if not errors:
        return ""
    head, _, rest = " ".join(errors.split()).partition(": ")
    out = ""
    if head.startswith(", "):
        out += f".PP\n{roff(capital(head[2:]))}:\n"
    for part in re.split(r"; (?![^()]*\))", rest.rstrip(".")):
        codes = re.match(r"((?:`(?:-E\w+|BELL_E_\w+)`(?:, | or )?)+)\s*(.*)", part)
        if codes:
            names = codes[1].replace("`", "").rstrip(", ")
            out += item(names, capital(codes[2]) + "." if codes[2] else meaning(header, names))
        else:
            out += ".PP\n" + roff(capital(part)) + ".\n"
    return out


def examples():
    """Page -> programs, of all blocks of docs/*.md that name it."""
    found = {}
    for path in sorted(DOCS.glob("*.md")):
        for names, code in re.findall(r"^```c .*?man=(\S+)[^\n]*\n(.*?)^```$", path.read_text(), re.M | re.S):
            for name in names.split(","):
                if name + "(" not in code:
                    sys.exit(f"man.py: {path}: an example for {name} does not call it")
                found.setdefault(name, []).append(code)
    return found


MEANS = {
    "N": "It never blocks: bounded time, no waiting for other threads beyond short locks.",
    "B": "It may block.",
}


def function_page(header, name, code, comment, programs):
    text, calling, errors = split_comment(comment)
    returns = re.findall(r"(?:^|[.)] )(Returns .*?\.)(?= |$)", text)
    returns += [capital(r) for r in re.findall(r"; (returns .*?\.)(?= |$)", text)]
    negative = re.match(r"int(32|64)_t ", code) is not None
    if negative and not returns:
        returns = ["Returns 0."]
    if negative:
        returns.append("A negative result is an error: see ERRORS.")
    if calling.count("[") == 1:
        blocking = MEANS[calling[1]]
        notes = re.sub(r"^\[[NB]\][,.]? ?", "", calling)
        notes = capital(re.sub(r"^\((.*?)\), (.)", lambda m: f"{m[1]}. {m[2].upper()}", notes))
    else:
        blocking, notes = "[N] means that it never blocks, [B] that it may block:", calling
    body = f".SH NAME\n{name} \\- {roff(short(text))}\n"
    body += ".SH SYNOPSIS\n.nf\n.B #include <doorbell.h>\n.PP\n" + plain(prototype(code)) + "\n.fi\n"
    body += ".SH DESCRIPTION\n" + paragraphs([text])
    body += ".SH RETURN VALUE\n" + roff(" ".join(returns)) + "\n"
    if negative:
        body += ".SH ERRORS\n" + error_list(header, errors)
        if "bell_t *bell" in code:
            body += ".PP\nAs of every function that takes a manager:\n"
            body += "".join(item(e, meaning(header, e)) for e in ("BELL_E_STALE", "BELL_E_FORKED", "BELL_E_POISONED"))
    body += ".SH NOTES\n" + blocking + (("\n" + roff(notes)) if notes else "") + "\n"
    if name in programs:
        body += ".SH EXAMPLES\n" + "".join(verbatim(p) for p in programs[name])
    return page(name, "3", body, see_also(header, name, code + " ".join(comment)))


def struct_page(header, name, code, comment, fields):
    body = f".SH NAME\n{name} \\- {roff(short(comment[0]))}\n"
    body += ".SH SYNOPSIS\n.nf\n.B #include <doorbell.h>\n.PP\n" + plain(code) + "\n.fi\n"
    body += ".SH DESCRIPTION\n" + paragraphs(comment)
    if fields:
        body += ".SS Fields\n" + "".join(item(f, " ".join(about)) for f, about in fields)
    users = [f for f, (proto, _) in header.functions.items() if re.search(rf"\b{name}\b", proto)]
    users = users if len(users) < 9 else []
    text = " ".join(comment) + code + " ".join(users)
    return page(name, "3", body, see_also(header, name, text))


def overview(header):
    out = []
    for section in re.split(r"^# ", (DOCS / "doorbell.7.md").read_text(), flags=re.M)[1:]:
        title, _, text = section.partition("\n")
        out.append(f".SH {title}\n")
        for part in re.split(r"^(@[^\n]*|## [^\n]*|```text\n.*?```)$", text, flags=re.M | re.S):
            part = part.strip("\n")
            if part.startswith("## "):
                out.append(f".SS {part[3:]}\n")
            elif part.startswith("```"):
                out.append(verbatim(part[8:-3]))
            elif part.startswith("@"):
                out.append(directive(header, *part[1:].split(None, 1)))
            elif part and title == "NAME":
                out.append(part.replace(" - ", " \\- ") + "\n")
            elif part:
                out.append(paragraphs(part.split("\n")))
    return page("doorbell", "7", "".join(out), [n + "(3)" for n in header.functions | header.types | header.structs])


def directive(header, what, which=""):
    if what == "constants":
        chosen = [n for n in header.constants if any(n.startswith(w) if w.endswith("_") else n == w for w in which.split())]
        if not chosen:
            sys.exit(f"man.py: no constants {which}")
        # The heading says already what they are.
        prefix = r"^(Error|Target|Mode|Feature|Clock|Shard): "
        return "".join(item(n, capital(re.sub(prefix, "", " ".join(header.constants[n][1])))) for n in chosen)
    if what == "conventions":
        return paragraphs(header.preamble[header.preamble.index("\n- ") :].split("\n"))
    if what == "functions":
        return "".join(item(f"{n}(3)", short(split_comment(c)[0])) for n, (_, c) in header.functions.items())
    if what == "types":
        known = {n: c for n, (_, c) in header.types.items()} | {n: s[1] for n, s in header.structs.items()}
        return "".join(item(f"{n}(3)", short(c[0])) for n, c in known.items())
    if what == "readme":
        section = re.search(rf"^## {which}\n\n(- .*?)\n\n", (ROOT / "README.md").read_text(), re.M | re.S)
        if not section:
            sys.exit(f"man.py: README.md has no list below {which}")
        return paragraphs(section[1].split("\n"))
    if what == "program":
        return verbatim(re.search(r"^```c\n(.*?)^```$", (ROOT / which).read_text(), re.M | re.S)[1])
    sys.exit(f"man.py: doorbell.7.md: what is @{what}?")


def main():
    header = Header(ROOT / "include/doorbell.h")
    if sys.argv[1:] == ["--list"]:
        for name, (_, comment) in header.functions.items():
            print(name, "".join(dict.fromkeys(re.findall(r"\[([NB])\]", split_comment(comment)[1]))))
        return
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    programs = examples()
    if unknown := [n for n in programs if not header.page_of(n)]:
        sys.exit(f"man.py: examples for what the header does not have: {unknown}")
    pages = {f"man3/{n}.3": function_page(header, n, *f, programs) for n, f in header.functions.items()}
    pages |= {f"man3/{n}.3": struct_page(header, n, *s) for n, s in header.structs.items()}
    pages |= {f"man3/{n}.3": struct_page(header, n, *t, []) for n, t in header.types.items()}
    pages["man7/doorbell.7"] = overview(header)
    for name, text in pages.items():
        path = Path(sys.argv[1]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


main()
