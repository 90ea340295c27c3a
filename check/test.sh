#!/bin/bash
# Does doorbell-check say what is true, and does it fail when something is wrong?
# Usage: check/test.sh FOLDER, which has doorbell-check and the shared library.
set -u
check=$(realpath "$1")/doorbell-check
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0
fail() { echo "doorbell-check, $question: $1"; failed=1; }
# Runs it: its exit code is compared, its output is in $dir/out and $dir/err.
expect() { # code, arguments
  local code=$1 got
  shift
  timeout -k 5 100 "$check" "$@" >"$dir/out" 2>"$dir/err" </dev/null
  got=$?
  [ $got = "$code" ] || { fail "exit code $got instead of $code"; cat "$dir/out" "$dir/err"; }
}

question="all is well here"
expect 0
grep -q '^All is well\.$' "$dir/out" || fail "it does not say so"
[ ! -s "$dir/err" ] || fail "it complains: $(cat "$dir/err")"
costs=$(sed '1,/^Costs/d' "$dir/out" | grep -cE '^  .* [0-9]+$')
[ "$costs" = 8 ] || fail "$costs costs were measured, not 8"

question="without measuring"
expect 0 --no-measure
! grep -q '^Costs' "$dir/out" || fail "it measured"

question="JSON"
expect 0 --json
cp "$dir/out" "$dir/well.json"
expect 0 --json --no-measure
if command -v python3 >/dev/null; then
  python3 - "$dir/well.json" "$dir/out" <<'END' || fail "the JSON is not what it should be"
import json, sys
well, bare = (json.load(open(f)) for f in sys.argv[1:])
assert well["failed"] == 0 and well["backend"] in ("epoll", "poll", "kqueue"), well
assert len(well["checks"]) >= 20 and all(c["result"] in ("ok", "skipped") for c in well["checks"]), well["checks"]
# What the backend says it can do is what was asked: skipped is only what it lacks.
for feature, name in ("edge", "mode EDGE"), ("pollable", "pollable fd"), ("clocks", "timeout, boot clock"):
    result = next(c["result"] for c in well["checks"] if c["name"] == name)
    assert (result == "ok") == (feature in well["features"]), (feature, result)
assert len(well["measured"]) == 8 and all(0 < m["ns"] < 1e9 for m in well["measured"]), well["measured"]
assert bare["measured"] == []
assert well["fd_limit"] == "unlimited" or well["fd_limit"] > 6
END
else
  echo "skipped: doorbell-check --json: no python3 to read it"
fi

question="a machine without free fds"
(ulimit -n 6 && expect 1 && exit $failed) || failed=1
grep -q '^  target POLL  *FAILED: .*Too many open files' "$dir/out" || { fail "no clear line"; cat "$dir/out"; }
grep -q '^[0-9]* failed$' "$dir/out" || fail "no last line"
grep -q '^  library and header agree  *ok$' "$dir/out" || fail "what needs few fds failed too"
(ulimit -n 6 && expect 1 --json --no-measure && exit $failed) || failed=1
if command -v python3 >/dev/null; then
  python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); assert d["failed"] > 0 and d["fd_limit"] == 6, d' \
    "$dir/out" || fail "the JSON of a failure"
fi

question="--help"
expect 0 --help
grep -q '^Usage: doorbell-check' "$dir/out" || fail "no usage"
question="--version"
expect 0 --version
grep -qE '^doorbell-check [0-9]+\.[0-9]+\.[0-9]+$' "$dir/out" || fail "it says $(cat "$dir/out")"
question="an unknown option"
expect 2 --jsno
grep -q "unknown argument '--jsno'; try 'doorbell-check --help'" "$dir/err" || fail "no hint: $(cat "$dir/err")"
[ ! -s "$dir/out" ] || fail "it went on"

question="a full disk"
if [ -e /dev/full ]; then
  "$check" --no-measure >/dev/full 2>"$dir/err" && fail "exit code 0 though nothing could be written"
fi

[ $failed = 0 ] && echo "doorbell-check: says what is true, and fails when something is wrong"
exit $failed
