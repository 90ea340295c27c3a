#!/bin/bash
# The library for other systems than this one.
#   targets.sh install   the std of each by rustup; cross compilers by apt (Debian, as root)
#   targets.sh check     types and clippy for each; a C program with a static musl library
#   targets.sh aarch64   the C tests, built for aarch64, under qemu-user
# What is not installed is skipped, and told. TARGET: cargo's folder.
set -eu
cd "$(dirname "$0")/.."
TARGET=${TARGET:-${CARGO_TARGET_DIR:-target}}
mkdir -p "$TARGET"
TARGET=$(cd "$TARGET" && pwd)
cargo=${CARGO:-cargo}

# macOS and the BSDs: backend kqueue. OpenBSD and DragonFly have no ready std; -Zbuild-std checks them by hand:
#   RUSTC_BOOTSTRAP=1 cargo check --lib -Zbuild-std --target x86_64-unknown-openbsd
targets="x86_64-apple-darwin aarch64-apple-darwin x86_64-unknown-freebsd x86_64-unknown-netbsd
  aarch64-unknown-linux-gnu x86_64-unknown-linux-musl"
# Each backend that such a system can be built with, by the name of the target.
backends() { case $1 in *linux*) echo "epoll poll" ;; *) echo "kqueue poll" ;; esac; }

has() { command -v "$1" >/dev/null; }
skip() { echo "skipped: $1"; }
has_std() { ls "$(rustc --print sysroot)/lib/rustlib/$1/lib/"libstd-*.rlib >/dev/null 2>&1; }

install() {
  if has rustup; then rustup target add $targets; else echo "no rustup: the std of other systems is from https://rustup.rs"; fi
  packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user musl-tools"
  if has apt-get && [ "$(id -u)" = 0 ]; then
    apt-get install -y --no-install-recommends $packages
  else
    echo "as root: apt-get install --no-install-recommends $packages"
  fi
}

check() {
  for target in $targets; do
    if ! has_std "$target"; then
      skip "$target: no std for it (make targets, or: rustup target add $target)"
      continue
    fi
    for backend in $(backends "$target"); do
      # The crate type cdylib is dropped for musl, with a warning that no option turns off.
      if ! out=$(RUSTFLAGS="--cfg doorbell_backend=\"$backend\"" $cargo clippy -q --lib --target "$target" \
        --target-dir "$TARGET/targets-$backend" -- -D warnings 2>&1); then
        echo "$out"
        echo "$target, backend $backend: FAILED"
        exit 1
      fi
      echo "$target, backend $backend: types and clippy"
    done
  done
  musl
}

musl() {
  target=x86_64-unknown-linux-musl
  has_std $target || return 0 # told above
  has musl-gcc || { skip "a C program with musl: no musl-gcc (Debian: musl-tools)"; return 0; }
  [ "$(uname -sm)" = "Linux x86_64" ] || { skip "a C program with musl: this is no x86-64 Linux"; return 0; }
  out=$TARGET/targets-epoll/$target/debug
  $cargo rustc -q --lib --target $target --target-dir "$TARGET/targets-epoll" --crate-type staticlib
  # gcc's own unwinder (libgcc_eh) wants glibc; Rust brings one for musl.
  unwind=$(rustc --print sysroot)/lib/rustlib/$target/lib/self-contained/libunwind.a
  for name in $static_programs; do
    musl-gcc -static -O1 -g -pthread -std=c11 -Wall -Wextra -Werror -I include "c-tests/c/$name.c" \
      "$out/libdoorbell.a" "$unwind" -o "$out/$name"
    timeout -k 5 120 "$out/$name" >"$out/$name.log" 2>&1 </dev/null ||
      { cat "$out/$name.log"; echo "$target, $name.c: FAILED"; exit 1; }
  done
  echo "$target: static," $static_programs "passed"
}
static_programs="static_link side_by_side slots queues timeouts"

aarch64() {
  target=aarch64-unknown-linux-gnu
  has_std $target || { skip "no std for $target (make targets)"; return 0; }
  for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
    has $tool || { skip "no $tool (make targets)"; return 0; }
  done
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    $cargo rustc -q --lib --target $target --target-dir "$TARGET/targets-epoll" --crate-type cdylib,staticlib
  skip "drive_threads: it reads signal masks in /proc, which are those of qemu's own threads"
  skip "fork: to qemu-user 7.2, madvise(MADV_WIPEONFORK) is a success that does nothing"
  skip "limits: it counts threads, and qemu has one more"
  BELL_TEST_SLOW=1 make --no-print-directory -C c-tests LIMIT=300 LEAVE="drive_threads fork limits" CC=aarch64-linux-gnu-gcc SO="$TARGET/targets-epoll/$target/debug/libdoorbell.so" \
    RUN="qemu-aarch64 -L /usr/aarch64-linux-gnu"
}

case ${1:-} in
install | check | aarch64) "$1" ;;
*) sed -n '2,6s/^# //p' "$0"; exit 2 ;;
esac
