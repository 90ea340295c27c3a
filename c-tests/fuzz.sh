#!/bin/bash
# Fuzzing of the C interface (fuzz/fuzz.c), on all the given builds of the library at once: the corpus, as many programs
# from a fixed seed, then new ones for some seconds. C's sanitizers are on; in the library, its own assertions.
# Usage: c-tests/fuzz.sh SECONDS FOLDER...: each folder holds a libdoorbell.so
set -eu
cd "$(dirname "$0")/.."
seconds=$1
shift

jobs=()
for folder; do
  dir=$(realpath "$folder")/fuzz
  mkdir -p "$dir"
  ln -sf ../libdoorbell.so "$dir/libdoorbell.so"
  ln -sf ../libdoorbell.so "$dir/libdoorbell.so.0"
  ${CC:-cc} -std=c11 -Wall -Wextra -Werror -pedantic -O1 -g -pthread -fsanitize=address,undefined \
    -fno-sanitize-recover=all -fno-omit-frame-pointer -I include c-tests/fuzz/fuzz.c -o "$dir/fuzz" \
    -L "$dir" -Wl,-rpath,"$dir" -ldoorbell
  corpus=$PWD/c-tests/fuzz/corpus
  (cd "$dir" && ./fuzz "$corpus" --random 1 3000 --seconds "$seconds" >log 2>&1) &
  jobs+=("$!:$dir")
done

failed=0
for job in "${jobs[@]}"; do
  if wait "${job%%:*}"; then
    grep -h 'seed\|execs=' "${job#*:}/log"
  else
    failed=1
    echo "fuzz.sh: FAILED in ${job#*:}"
    cat "${job#*:}/log"
  fi
done
exit $failed
