#!/bin/bash
# Has each exported function its manual page, and are all pages well-formed?
# Usage: c-tests/man.sh FOLDER, which has libdoorbell.so and man/ (made by docs/man.py).
set -eu
cd "$(dirname "$0")/.."
lib=$1/libdoorbell.so man=$1/man failed=0

functions=$(nm -D --defined-only "$lib" | sed -n 's/.* T \(bell_[a-z_]*\).*/\1/p' | grep -v '^bell_test_')
[ "$(wc -w <<<"$functions")" -gt 20 ] || { echo "man.sh: nm finds too few functions in $lib: $functions"; exit 1; }
for function in $functions bell_slot_take; do
  [ -s "$man/man3/$function.3" ] || { echo "man.sh: $function has no manual page"; failed=1; }
done
for page in "$man"/man3/*; do
  name=$(basename "$page" .3)
  grep -qw "$name" <<<"$functions bell_slot_take" || grep -q "^typedef .*\<$name\>" include/doorbell.h ||
    { echo "man.sh: $page: no such function or type"; failed=1; }
done

pages=("$man"/man3/* "$man"/man7/*)
by=
if command -v mandoc >/dev/null; then
  by="$by mandoc"
  mandoc -Tlint -W warning "${pages[@]}" || failed=1
fi
if command -v groff >/dev/null; then
  by="$by groff"
  for page in "${pages[@]}"; do
    complaints=$(groff -man -ww -z -Tutf8 "$page" 2>&1) && [ -z "$complaints" ] || { echo "$complaints"; failed=1; }
  done
fi
[ -n "$by" ] || echo "skipped: neither mandoc nor groff is here to look at the pages"
# What a page refers to has to be there.
links=$(sed -n 's/^\.BR \(bell_[a-z_]*\) (3).*/\1.3/p' "${pages[@]}" | sort -u)
for link in $links; do
  [ -s "$man/man3/$link" ] || { echo "man.sh: a page refers to $link, which is not there"; failed=1; }
done
[ $failed = 0 ] || exit 1
echo "man.sh: ${#pages[@]} pages, well-formed according to:${by:- nobody}"
