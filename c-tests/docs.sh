#!/bin/bash
# Compiles and runs every program in the documentation: what a reader copies has to work as it stands. That is each
# block of README.md, CONTRIBUTING.md, SECURITY.md and docs/*.md that begins with ```c, ```python, ```lua, ```haskell,
# ```ocaml, ```go, ```rust or ```java, and the two examples in the comments of doorbell.h. A block with file=NAME is
# only saved under that name, for the one after it. A language that is not here is skipped, C excepted.
# Usage: c-tests/docs.sh FOLDER, which has libdoorbell.so and libdoorbell.so.0.
set -eu
cd "$(dirname "$0")/.."
lib=$(realpath "$1") include=$(realpath include)
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT # go makes its folders read-only
export LD_LIBRARY_PATH=$lib

compile_c() { # source, program
  ${CC:-cc} -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -pthread -I "$include" "$1" -o "$2" -L "$lib" -ldoorbell
}

# Each block to a folder of its own; list: folder, language, file and line.
for file in README.md CONTRIBUTING.md SECURITY.md docs/*.md; do
  [ -e "$file" ] || continue
  awk -v dir="$dir" -v file="$file" '
    !on && /^```(c|python|lua|haskell|ocaml|go|rust|java)( |$)/ {
      on = 1; language = substr($1, 4); name = "block"
      for (i = 2; i <= NF; i++) if ($i ~ /^file=/) name = substr($i, 6)
      if (!keep) { at = dir "/" ++n "-" file; gsub("/", "_", at); at = dir "/" substr(at, length(dir) + 2); system("mkdir " at) }
      if (name == "block") print at, language, file ":" NR >> (dir "/list")
      keep = name != "block"
      next
    }
    on && /^```$/ { on = 0; close(at "/" name); next }
    on { print > (at "/" name) }' "$file"
done
grep -q ' c README.md:' "$dir/list" || { echo "docs.sh: README.md has no block that begins with \`\`\`c"; exit 1; }

# The header's first example, and the loop of a consumer, each in as little program as it needs.
mkdir "$dir/header" "$dir/loop"
{
  printf '#include <doorbell.h>\n#include <unistd.h>\nint main(void) {\n    int fds[2], sock; char buffer[4];\n'
  printf '    if (pipe(fds) < 0 || write(fds[1], "ding", 4) != 4) return 1;\n    close(fds[1]); sock = fds[0];\n'
  sed -n '/^ \*     bell_t \*bell;/,/^ \*     bell_destroy/s/^ \*//p' include/doorbell.h
  printf '    return read(sock, buffer, 1) != 0;\n}\n'
} >"$dir/header/block"
{
  printf '#include <doorbell.h>\n#include <errno.h>\n#include <fcntl.h>\n#include <unistd.h>\nint main(void) {\n'
  printf '    bell_t *b; bell_handle h; int fds[2]; char p[4]; ssize_t n, len = 4;\n'
  printf '    if (pipe(fds) < 0 || bell_create(NULL, &b) < 0) return 1;\n    int fd = fds[0]; fcntl(fd, F_SETFL, O_NONBLOCK);\n'
  printf '    bell_fd_spec spec = {.size = sizeof spec, .fd = fd, .interest = BELL_READ, .mode = BELL_EDGE,\n'
  printf '                         .target = {.kind = BELL_TARGET_SLOT}};\n'
  printf '    if (bell_register_fd(b, &spec, &h) < 0 || write(fds[1], "ding", 4) != 4) return 1;\n'
  sed 's,^// *,,' include/doorbell.h | tr '\n' ' ' | grep -o '`while ((n = read(fd[^`]*`' | tr -d '`'
  printf '    return n == 4 ? bell_unregister(b, h, 0) != BELL_CANCELLED || bell_destroy(b, 0) : 1;\n}\n'
} >"$dir/loop/block"
grep -q bell_rearm "$dir/header/block" && grep -q 'while ((n' "$dir/loop/block" ||
  { echo "docs.sh: the examples in the comments of doorbell.h were not found"; exit 1; }
echo "$dir/header c include/doorbell.h
$dir/loop c include/doorbell.h:bell_slot_wait" >>"$dir/list"

has() { command -v "$1" >/dev/null; }
run() { timeout -k 5 60 "$@" </dev/null; }
ran=0 failed=0 skipped=
while read -r at language where; do
  here=yes
  (
    cd "$at"
    case $language in
      c) mv block p.c; compile_c p.c p && run ./p ;;
      python) has python3 || exit 77; run python3 block ;;
      lua) has luajit || exit 77; run luajit block ;;
      haskell) has ghc || exit 77; mv block Main.hs
        ghc -v0 -Wall -threaded Main.hs -o p -L"$lib" -ldoorbell && run ./p ;;
      ocaml) has ocamlopt || exit 77; mv block p.ml
        ocamlopt -o p -ccopt "-I$include -L$lib" ./*.c p.ml -cclib -ldoorbell && run ./p ;;
      go) has go || exit 77; mv block p.go
        export GOCACHE=$dir/go GOFLAGS=-modcacherw CGO_CFLAGS="-I$include" CGO_LDFLAGS="-L$lib"
        GO111MODULE=off timeout 300 go build -o p p.go && run ./p ;;
      rust) has rustc || exit 77; mv block p.rs; rustc --edition 2024 -D warnings -L "$lib" p.rs -o p && run ./p ;;
      java) # 22 is the first with java.lang.foreign
        has java && [ "$(java -version 2>&1 | sed -n '1s/[^"]*"\([0-9]*\).*/\1/p')" -ge 22 ] || exit 77
        mv block Bell.java; run java --enable-native-access=ALL-UNNAMED Bell.java ;;
    esac
  ) >"$dir/out" 2>&1 || here=$?
  case $here in
    yes) ran=$((ran + 1)) ;;
    77) skipped="$skipped $language" ;;
    *) echo "docs.sh: the $language program at $where FAILED with $here:"; cat "$dir/out"; failed=1 ;;
  esac
done <"$dir/list"

# The guide's table of functions: all of them, and what they say of blocking, as the header has it.
if has python3; then
  python3 docs/man.py --list | sort >"$dir/header.functions"
  sed -n 's/^| `\(bell_[a-z_]*\)` | \([NB/]*\) |.*/\1 \2/p' docs/guide.md | tr -d / | sort >"$dir/guide.functions"
  diff "$dir/header.functions" "$dir/guide.functions" ||
    { echo "docs.sh: the table of functions in docs/guide.md (>) is not what doorbell.h says (<)"; failed=1; }
fi
# Links to files of the repository.
for file in README.md CONTRIBUTING.md SECURITY.md docs/*.md; do
  [ -e "$file" ] || continue
  for link in $(grep -o ']([^)#:]*[)#]' "$file" | sed 's/^](//; s/[)#]$//'); do
    [ -e "$(dirname "$file")/$link" ] || { echo "docs.sh: $file links to $link, which is not there"; failed=1; }
  done
done
[ $failed = 0 ] || exit 1
echo "docs.sh: $ran programs of the documentation compile and run${skipped:+; skipped, not here:$skipped}"
