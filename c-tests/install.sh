#!/bin/bash
# `make install` into an empty folder, then what people do next: C by pkg-config, C by CMake, Python, Haskell.
# Usage: c-tests/install.sh, after `make lib`.
set -eu
cd "$(dirname "$0")/.."
t=$(mktemp -d)
trap 'rm -rf "$t"' EXIT
here=$PWD/c-tests/install
cc=${CC:-cc}
passed=
fail() { echo "install.sh: $*"; exit 1; }

# As a package for another root is made: nothing of it may name $stage. CMake and pkg-config know Debian's folder.
stage=$t/stage
libdir=lib/$($cc -print-multiarch 2>/dev/null || :)
libdir=${libdir%/}
where=(DESTDIR="$stage" PREFIX=/usr LIBDIR="/usr/$libdir")
lib=$stage/usr/$libdir
${MAKE:-make} -s --no-print-directory install "${where[@]}"
for file in "$stage/usr/include/doorbell.h" "$lib"/{libdoorbell.so{,.0,.0.1.0},libdoorbell.a,pkgconfig/doorbell.pc} \
  "$lib"/cmake/doorbell/doorbell-config{,-version}.cmake; do
  [ -r "$file" ] || fail "not installed: $file"
done
! grep -rl --include='*.pc' --include='*.cmake' -e "$t" "$stage" || fail "these name the staging folder"
c-tests/linked.sh "$lib/libdoorbell.so"

# The loader's own idea of the link that it needs must be the installed one.
cp -P "$lib"/libdoorbell.so.0.1.0 "$t/" && ldconfig -n "$t" 2>/dev/null || PATH=$PATH:/sbin ldconfig -n "$t"
[ "$(readlink "$t/libdoorbell.so.0")" = "$(readlink "$lib/libdoorbell.so.0")" ] || fail "ldconfig makes another link"

# pkgconf and pkg-config put the system root before the paths of the .pc file.
export PKG_CONFIG_PATH=$lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$stage
says() { # TEST COMMAND...: it must run and name the library
  local test=$1 out
  shift
  out=$(timeout -k 5 60 "$@" </dev/null) || fail "$test: exit code $?"
  [[ $out == doorbell* ]] || fail "$test: said: $out"
  passed="$passed, $test"
}
uses() { readelf -d "$1" | grep -q 'NEEDED.*libdoorbell.so.0'; }
if command -v pkg-config >/dev/null; then
  pkg-config --validate doorbell || fail "doorbell.pc is not valid"
  # shellcheck disable=SC2046 # words
  $cc -Wall -Werror "$here/pipe.c" -o "$t/shared" $(pkg-config --cflags --libs doorbell)
  uses "$t/shared" || fail "pkg-config: not linked with the shared library"
  readelf -W -V "$t/shared" | grep -q 'Name: DOORBELL_0' || fail "the program does not ask for the version of the symbols"
  says "C by pkg-config" env LD_LIBRARY_PATH="$lib" "$t/shared"
  # shellcheck disable=SC2046
  $cc -Wall -Werror -static "$here/pipe.c" -o "$t/static" $(pkg-config --cflags --libs --static doorbell)
  says "static C by pkg-config" "$t/static"
else echo "skipped: C by pkg-config: no pkg-config"; fi

# What rustc says that the static library needs, but for libgcc_s, which the C compiler brings: see pkg/install.sh.
needs=$(sed -n 's/.*native-static-libs: //p' build/native-static-libs)
told=$(sed -n 's/^Libs.private: //p' "$lib/pkgconfig/doorbell.pc")
[ -n "$told" ] && [ "$needs" = "-lgcc_s $told" ] || [ "$needs" = "$told" ] ||
  fail "Libs.private is '$told', rustc says '$needs'"

if command -v cmake >/dev/null; then
  (cmake -S "$here" -B "$t/cmake" -DCMAKE_PREFIX_PATH="$stage/usr" &&
    cmake --build "$t/cmake") >"$t/cmake.log" 2>&1 || { cat "$t/cmake.log"; fail "CMake"; }
  uses "$t/cmake/pipe-shared" || fail "CMake: doorbell::doorbell is not the shared library"
  ! uses "$t/cmake/pipe-static" || fail "CMake: doorbell::static is not the static library"
  says "C by CMake" env LD_LIBRARY_PATH="$lib" "$t/cmake/pipe-shared"
  says "static C by CMake" "$t/cmake/pipe-static"
else echo "skipped: C by CMake: no cmake"; fi

if command -v python3 >/dev/null; then
  says Python env LD_LIBRARY_PATH="$lib" python3 "$here/pipe.py"
else echo "skipped: Python: no python3"; fi

if command -v cabal >/dev/null && command -v ghc >/dev/null && command -v pkg-config >/dev/null; then
  # No remote repositories: cabal would ask them for an index.
  echo "-- none" >"$t/cabal.config"
  mkdir "$t/haskell"
  (
    cd haskell-bindings
    export CABAL_CONFIG=$t/cabal.config CABAL_DIR=$t/cabal LD_LIBRARY_PATH=$lib
    cabal v2-build -v1 --offline -O0 --disable-tests --builddir="$t/dist" lib:doorbell
    ghc -v1 -package-db "$t/dist/packagedb/ghc-$(ghc --numeric-version)" -package doorbell -threaded \
      -outputdir "$t/haskell" -o "$t/haskell/pipe" "$here/Pipe.hs"
  ) >"$t/haskell.log" 2>&1 || { cat "$t/haskell.log"; fail "Haskell"; }
  ldd "$t/haskell/pipe" >"$t/ldd" && grep -q libdoorbell.so.0 "$t/ldd" || fail "Haskell: does not need the library"
  says Haskell env LD_LIBRARY_PATH="$lib" "$t/haskell/pipe"
else echo "skipped: Haskell: no ghc or cabal or pkg-config"; fi

${MAKE:-make} -s --no-print-directory uninstall "${where[@]}"
left=$(find "$stage" -mindepth 1)
[ -z "$left" ] || fail "left by make uninstall: $left"

# Where others live too, only what is ours goes.
mkdir -p "$t/usr/include" "$t/usr/lib/pkgconfig"
touch "$t/usr/include/other.h"
${MAKE:-make} -s --no-print-directory install PREFIX="$t/usr"
[ "$(PKG_CONFIG_SYSROOT_DIR='' PKG_CONFIG_PATH=$t/usr/lib/pkgconfig pkg-config --variable=libdir doorbell)" = "$t/usr/lib" ] ||
  fail "doorbell.pc does not name PREFIX"
${MAKE:-make} -s --no-print-directory uninstall PREFIX="$t/usr"
left=$(cd "$t/usr" && find . -not -type d)
[ "$left" = ./include/other.h ] || fail "after uninstall there should be other.h alone: $left"
[ -d "$t/usr/lib/pkgconfig" ] && [ ! -e "$t/usr/lib/cmake/doorbell" ] || fail "uninstall took or left a wrong folder"

echo "install.sh: ${passed#, }; nothing left by uninstall"
