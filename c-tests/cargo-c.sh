#!/bin/bash
# Does `cargo cinstall` (cargo-c) install the same as `make install`? Compared are the names and links, the header,
# doorbell.pc, and how the shared library is linked.
# Usage: c-tests/cargo-c.sh, after `make lib`.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
"$cargo" capi --version >/dev/null 2>&1 || { echo "skipped: no cargo-c (cargo install cargo-c)"; exit 0; }
t=$(mktemp -d)
trap 'rm -rf "$t"' EXIT

"$cargo" cinstall --release -p doorbell --target-dir "${TARGET:-target}/cargo-c" --destdir "$t/cargo-c" \
  --prefix /usr --libdir /usr/lib --includedir /usr/include >"$t/log" 2>&1 || { cat "$t/log"; exit 1; }
${MAKE:-make} -s --no-print-directory install DESTDIR="$t/make" PREFIX=/usr
# What only `make install` has: docs/versioning.md says so.
rm -rf "$t/make/usr/lib/cmake" "$t/make/usr/share/man" "$t/make/usr/bin"
rmdir "$t/make/usr/share" 2>/dev/null || :

list() { (cd "$t/$1" && find . \( -type f -o -type l \) -printf '%p %l\n' | sort); }
# A link may go to the next link or straight to the file: what counts is where it ends.
ends() { (cd "$t/$1" && find . -type l -printf '%p ' -exec readlink -f {} \; | sed "s|$t/$1||" | sort); }
diff <(list make | cut -d ' ' -f 1) <(list cargo-c | cut -d ' ' -f 1) || { echo "cargo-c.sh: other files"; exit 1; }
diff <(ends make) <(ends cargo-c) || { echo "cargo-c.sh: other links"; exit 1; }
cmp "$t/make/usr/include/doorbell.h" "$t/cargo-c/usr/include/doorbell.h"
# cargo-c names -lgcc_s too: pkg/install.sh says why that does not do.
diff "$t/make/usr/lib/pkgconfig/doorbell.pc" <(sed 's/-lgcc_s //' "$t/cargo-c/usr/lib/pkgconfig/doorbell.pc") ||
  { echo "cargo-c.sh: another doorbell.pc"; exit 1; }
c-tests/linked.sh "$t/cargo-c/usr/lib/libdoorbell.so.0"
echo "cargo-c.sh: cargo-c installs the same as make"
