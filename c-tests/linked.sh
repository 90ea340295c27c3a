#!/bin/bash
# How the released library is linked: soname, exports with their version, what the loader is to do, and its size.
# Usage: c-tests/linked.sh LIBRARY
set -eu
cd "$(dirname "$0")/.."
so=$1
failed=0
wrong() { echo "linked.sh: $*"; failed=1; }
major=$(sed -n 's/^version = "\([0-9]*\).*/\1/p' Cargo.toml | head -n 1)
dynamic=$(readelf -W -d "$so")
segments=$(readelf -W -l "$so")

grep -q "^#define BELL_ABI_MAJOR $major\$" include/doorbell.h || wrong "BELL_ABI_MAJOR is not $major, as in Cargo.toml"
grep -q "(SONAME).*\[libdoorbell.so.$major\]" <<<"$dynamic" || wrong "the soname is not libdoorbell.so.$major"
grep '(FLAGS_1)' <<<"$dynamic" | grep NODELETE | grep -q NOW || wrong "no NODELETE, or no NOW (BIND_NOW)"
grep -q GNU_RELRO <<<"$segments" || wrong "no RELRO"
! grep -q '(TEXTREL)' <<<"$dynamic" || wrong "relocations in the text"
! grep GNU_STACK <<<"$segments" | grep -q E || wrong "an executable stack"
! grep -qE '\(R(UN)?PATH\)' <<<"$dynamic" || wrong "a path of the build machine"

# GNU ld also lists the version itself, as an absolute symbol.
exports=$(nm -D --defined-only "$so" | awk '$2 != "A" { print $3 }' | sort)
header=$(sed -n 's/^[a-z].*[ *]\(bell_[a-z_0-9]*\)(.*/\1/p' include/doorbell.h | grep -v bell_slot_take | sort)
[ "$(wc -l <<<"$header")" -gt 30 ] || wrong "too few functions found in the header"
difference=$(diff <(sed "s/\$/@@DOORBELL_$major/" <<<"$header") - <<<"$exports") ||
  wrong "declared in the header on the left, exported on the right:
$difference"

# Built with a std of its own (the symbolizer of backtraces is told by its name) it has to be small; see pkg/build.sh.
most=450000
if nm "$so" | grep -q gimli; then most=500000; fi
stripped=$(mktemp)
trap 'rm -f "$stripped"' EXIT
strip -o "$stripped" "$so"
size=$(stat -c %s "$stripped")
[ "$size" -lt "$most" ] || wrong "$size bytes stripped, less than $most are allowed"

[ "$failed" = 0 ]
echo "linked.sh: $(wc -l <<<"$header") functions, version DOORBELL_$major, RELRO, NOW, NODELETE, $size bytes stripped"
