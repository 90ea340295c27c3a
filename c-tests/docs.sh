#!/bin/bash
# Compiles and runs the first block of C in README.md: what a reader copies first has to work.
# Usage: c-tests/readme.sh FOLDER, which has libdoorbell.so and libdoorbell.so.0.
set -eu
cd "$(dirname "$0")/.."
lib=$(realpath "$1")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
awk '/^```c$/ { on = 1; next } on && /^```$/ { exit } on' README.md >"$dir/readme.c"
[ -s "$dir/readme.c" ] || { echo "readme.sh: README.md has no block that begins with \`\`\`c"; exit 1; }
${CC:-cc} -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -pthread -I include "$dir/readme.c" -o "$dir/readme" \
  -L "$lib" -Wl,-rpath,"$lib" -ldoorbell
timeout -k 5 60 "$dir/readme" </dev/null || { echo "readme.sh: the program of README.md exited with $?"; exit 1; }
echo "readme.sh: the program of README.md compiles and runs"
