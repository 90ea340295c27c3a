#!/bin/bash
# Is here what building and testing need? On Debian, as root, it is installed. Else the command is told, and it
# fails for what nothing works without. `deps.sh haskell`: what haskell-bindings/ needs, too.
set -eu

if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
  echo "deps: Rust 1.85 or later is missing: see https://rustup.rs, or your system's packages rustc and cargo"
  exit 1
fi
version=$(rustc -V | sed 's/^rustc \([0-9]*\)\.\([0-9]*\).*/\1 \2/')
if [ "${version% *}" -eq 1 ] && [ "${version#* }" -lt 85 ]; then
  echo "deps: $(rustc -V) is too old, 1.85 is needed: see https://rustup.rs"
  exit 1
fi

# Packages as Debian calls them. valgrind needs the symbols of libc.
need= like=
has() { command -v "$1" >/dev/null; }
has cc || need="$need gcc libc6-dev"
has make || need="$need make"
has nm && has readelf || need="$need binutils"
has c++ || like="$like g++"
has valgrind || like="$like valgrind libc6-dbg"
has pkg-config || like="$like pkg-config"
has cmake || like="$like cmake"
has strace || like="$like strace"
has mandoc || has groff || like="$like mandoc"
has python3 || like="$like python3"
# For examples/.
has luajit || like="$like luajit"
pkg-config --exists libuv 2>/dev/null || like="$like libuv1-dev"
pkg-config --exists glib-2.0 2>/dev/null || like="$like libglib2.0-dev"

# With the sources of std the released library is half as large (see pkg/build.sh). Not said elsewhere: it is no need.
if [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ] && has rustup &&
  [ ! -e "$(rustc --print sysroot)/lib/rustlib/src/rust/library" ]; then
  echo "deps: rustup component add rust-src"
  rustup -q component add rust-src 2>/dev/null || echo "deps: it cannot be had: the library will be larger"
fi
if [ "${1-}" = haskell ]; then
  has ghc || like="$like ghc"
  has cabal || like="$like cabal-install"
  for package in hspec network warp; do
    ghc-pkg latest $package >/dev/null 2>&1 || like="$like libghc-$package-dev"
  done
  has hlint || like="$like hlint"
  has wrk || like="$like wrk"
fi
[ -z "$need$like" ] && exit 0

install="apt-get install -y --no-install-recommends$need$like"
if has apt-get && [ -e /etc/debian_version ] && [ "$(id -u)" = 0 ]; then
  echo "deps: installing$need$like"
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  if apt-get update >"$log" 2>&1 && $install >>"$log" 2>&1; then
    rm "$log"
    exit 0
  fi
  cat "$log"
elif has apt-get; then
  echo "deps: to install what is missing: sudo $install"
else
  echo "deps: these are missing (names of Debian packages):$need$like"
fi
[ -z "$like" ] || echo "deps: not strictly needed, their tests are skipped or fail:$like"
[ -z "$need" ] || { echo "deps: cannot go on without:$need"; exit 1; }
