#!/bin/bash
# Are the libraries here that the benchmark runs beside Doorbell? On Debian, as root, they are installed. Else the
# command is told, and it fails.
set -eu

need=
header() { echo "#include <$1>" | cc -E -x c - >/dev/null 2>&1 || need="$need $2"; }
header ev.h libev-dev
header uv.h libuv1-dev
header event2/event.h libevent-dev
header liburing.h liburing-dev
command -v python3 >/dev/null || need="$need python3"
command -v strace >/dev/null || need="$need strace"
command -v valgrind >/dev/null || need="$need valgrind libc6-dbg"
[ -z "$need" ] && exit 0

install="apt-get install -y --no-install-recommends$need"
if command -v apt-get >/dev/null && [ -e /etc/debian_version ] && [ "$(id -u)" = 0 ]; then
  echo "bench: installing$need"
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  if apt-get update >"$log" 2>&1 && $install >>"$log" 2>&1; then
    rm "$log"
    exit 0
  fi
  cat "$log"
fi
echo "bench: these are missing (names of Debian packages):$need"
exit 1
