#!/bin/bash
# Fuzzing of the C interface (fuzz/fuzz.c), on all the given builds of the library at once, and with io_uring where the
# build and the kernel have it: the corpus, FIXED (4,000) programs of fixed seeds, and new ones for SECONDS.
# C's sanitizers are on; in the library, its own assertions.
# Usage: c-tests/fuzz.sh SECONDS FOLDER...: each folder holds a libdoorbell.so
set -eu
cd "$(dirname "$0")/.."
arguments=("$PWD/c-tests/fuzz/corpus" --random 1 "${FIXED:-4000}")
[ "$1" = 0 ] || arguments+=(--seconds "$1")
shift

jobs=()
# start NAME [FLAG]: in $dir
start() {
  (cd "$dir" && mkdir -p "$1" && cd "$1" && ../fuzz "${@:2}" "${arguments[@]}" >log 2>&1) &
  jobs+=("$!:$dir/$1")
}
for folder; do
  dir=$(realpath "$folder")/fuzz
  mkdir -p "$dir"
  ln -sf ../libdoorbell.so "$dir/libdoorbell.so"
  ln -sf ../libdoorbell.so "$dir/libdoorbell.so.0"
  ${CC:-cc} -std=c11 -Wall -Wextra -Werror -pedantic -O1 -g -pthread -fsanitize=address,undefined \
    -fno-sanitize-recover=all -fno-omit-frame-pointer -I include c-tests/fuzz/fuzz.c -o "$dir/fuzz" \
    -L "$dir" -Wl,-rpath,"$dir" -ldoorbell
  start plain
  start io-uring --io-uring
done

failed=0
for job in "${jobs[@]}"; do
  status=0
  wait "${job%%:*}" || status=$?
  case $status in
  0) grep -h 'seed\|execs=' "${job#*:}/log" ;;
  77) ;;
  *)
    failed=1
    echo "fuzz.sh: FAILED in ${job#*:}"
    cat "${job#*:}/log"
    ;;
  esac
done
exit $failed
