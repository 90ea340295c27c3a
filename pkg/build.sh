#!/bin/sh
# Builds the libraries as they are released: BUILD/libdoorbell.so.VERSION and libdoorbell.a. `make lib` calls it.
#
# The std that comes with Rust can print backtraces of panics, and so has a reader of debugging information in it:
# 230 kB that this library never uses, and that no flag takes away. Where the sources of std are
# (`rustup component add rust-src`), std is therefore built anew without it, which asks for features of cargo that are
# not stable; STD=ready takes the std that is there.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
build=${BUILD:-build}
target=${TARGET:-target}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
major=${version%%.*}
log=$build/native-static-libs.new
# Those that cargo-c takes too.
flags=$(sed -n "s/^rustflags = '\(.*\)'/\1/p" Cargo.toml)
mkdir -p "$build"

# Only `cargo rustc` with nothing but the C libraries does link-time optimization; with the rlib among them,
# `cargo build` silently does none.
compile() {
  # shellcheck disable=SC2086 # words
  "$cargo" rustc -q --lib --release --crate-type cdylib,staticlib "$@" -- $flags --print=native-static-libs 2>"$log"
}

from=
if [ "${STD:-}" != ready ] && [ -e "$(rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" ]; then
  host=$(rustc -vV | sed -n 's/^host: //p')
  if RUSTC_BOOTSTRAP=1 compile --target "$host" --target-dir "$target/own-std" \
    -Zbuild-std=std,panic_unwind -Zbuild-std-features=; then
    from=$target/own-std/$host/release
  else
    echo "lib: std cannot be built here (offline?), so the one that is there is taken, and the library is larger"
  fi
fi
if [ -z "$from" ]; then
  compile --target-dir "$target" || { cat "$log" >&2; exit 1; }
  from=$target/release
fi

install -m 755 "$from/libdoorbell.so" "$build/libdoorbell.so.$version"
install -m 644 "$from/libdoorbell.a" "$build/"
ln -sf "libdoorbell.so.$version" "$build/libdoorbell.so.$major"
ln -sf "libdoorbell.so.$major" "$build/libdoorbell.so"
# What a program with the static library needs beside it, for doorbell.pc.
mv "$log" "$build/native-static-libs"
