#!/bin/bash
# ThreadSanitizer over the library and the C programs. helgrind and drd are no use: they know only the locks of
# pthread and report every other one as missing. The sanitizer is not stable in Rust, but its runtime comes with the
# stable compiler, and RUSTC_BOOTSTRAP lets it be used. std itself stays uninstrumented: see tsan_help.c, tsan.supp.
# Usage: c-tests/tsan.sh [NAME...], names of programs in c/ without .c; default: all but those left out below.
set -eu
cd "$(dirname "$0")/.."
triple=$(rustc -vV | sed -n 's/^host: //p')
dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tsan
runtime=$(rustc --print sysroot)/lib/rustlib/$triple/lib/librustc-stable_rt.tsan.a
cc=${CC:-cc}

if [ ! -e "$runtime" ]; then
  echo "tsan.sh: skipped: this Rust comes without the runtime of ThreadSanitizer (rustup's has it on x86_64 Linux)"
  exit 0
fi

# fork: the sanitizer does not survive it. dlopen: there is no shared library here. limits: counts on being one thread,
# and the sanitizer has one more. corners, faults, museum_*: put functions where the sanitizer puts its own. seccomp: the
# sanitizer makes system calls that are not on the list.
left_out=" corners dlopen faults fork limits seccomp $(cd c-tests/c && echo museum_*.c | sed 's/\.c//g') "
names=${*:-$(cd c-tests/c && for f in *.c; do
  case $left_out in *" ${f%.c} "*) ;; *) echo "${f%.c}" ;; esac
done)}

RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" \
  cargo rustc -q --lib --profile dev --crate-type staticlib --features test-hooks --target "$triple" --target-dir "$dir"
library=$dir/$triple/debug/libdoorbell.a

# nm also meets objects of std that it cannot read.
contended=$(nm "$library" 2>/dev/null | awk '$1 == "U" && /5mutex5futex.*14lock_contended/ { print $2; exit }')
$cc -g -O1 -std=c11 -fsanitize=thread -pthread ${contended:+-DLOCK_CONTENDED="__wrap_$contended"} \
  -c c-tests/tsan_help.c -o "$dir/tsan_help.o"

# The runtime is that of Rust: the one of gcc lacks functions that LLVM calls.
# -u: poison.c names the hook weakly, which alone takes nothing out of an archive.
passed=0 skipped=0 failed=0
for name in $names; do
  $cc -g -O1 -std=c11 -fsanitize=thread -pthread -I include -c "c-tests/c/$name.c" -o "$dir/$name.o"
  $cc "$dir/$name.o" "$dir/tsan_help.o" ${contended:+-Wl,--wrap="$contended"} "$library" -Wl,--whole-archive "$runtime" -Wl,--no-whole-archive \
    -Wl,-u,bell_test_panic -pthread -ldl -lm -lrt -lgcc_s -o "$dir/$name"
  code=0
  BELL_TEST_SLOW=1 TSAN_OPTIONS="halt_on_error=1 suppressions=$PWD/c-tests/tsan.supp" \
    timeout -k 5 120 "$dir/$name" >"$dir/$name.log" 2>&1 </dev/null || code=$?
  case $code in
    0) passed=$((passed + 1)) ;;
    77) skipped=$((skipped + 1)); sed "s/^/$name: /" "$dir/$name.log" ;;
    *) failed=$((failed + 1)); echo "$name: FAILED with $code"; cat "$dir/$name.log" ;;
  esac
done
echo "tsan.sh: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
