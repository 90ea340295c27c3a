#!/bin/sh
# Puts what was built where a system expects it, or takes it away again: one list for both. `make install` and
# `make uninstall` call it; the variables below come from there.
# Usage: pkg/install.sh install|uninstall
set -eu
cd "$(dirname "$0")/.."
action=$1
prefix=${PREFIX:-/usr/local}
libdir=${LIBDIR:-$prefix/lib}
includedir=${INCLUDEDIR:-$prefix/include}
mandir=${MANDIR:-$prefix/share/man}
bindir=${BINDIR:-$prefix/bin}
destdir=${DESTDIR:-}
build=${BUILD:-build}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
major=${version%%.*}
scratch=

for dir in "$prefix" "$libdir" "$includedir" "$mandir" "$bindir"; do
  case $dir in
    /*) ;;
    *) echo "install: $dir: PREFIX and the other folders must be absolute" >&2; exit 1 ;;
  esac
done

# What a template needs to know. Folders below PREFIX are told by it, so that the tree may be moved.
below() { # FOLDER PREFIX'S-NAME
  case $1 in
    "$prefix"/*) echo "$2${1#"$prefix"}" ;;
    *) echo "$1" ;;
  esac
}
up=../..
rest=${libdir#"$prefix"}
while case $rest in ?*) true ;; *) false ;; esac; do
  up=$up/..
  rest=${rest%/*}
done
case $libdir in
  "$prefix"/*) probe=${libdir#"$prefix"/}/libdoorbell.so ;;
  *) probe=nothing ;;
esac
fill() { # TEMPLATE
  # What rustc says a static library needs, but for libgcc_s: a C compiler adds it by itself, and knows what to take
  # in its place with -static, where there is no libgcc_s.
  private=$(sed -n 's/.*native-static-libs: //p' "$build/native-static-libs" | sed 's/-lgcc_s *//')
  sed -e "s|@PREFIX@|$prefix|g" -e "s|@VERSION@|$version|g" -e "s|@MAJOR@|$major|g" \
    -e "s|@DESCRIPTION@|$(sed -n 's/^description = "\(.*\)"/\1/p' Cargo.toml)|" \
    -e "s|@PC_LIBDIR@|$(below "$libdir" '${prefix}')|" -e "s|@PC_INCLUDEDIR@|$(below "$includedir" '${prefix}')|" \
    -e "s|@LIBS_PRIVATE@|$private|" \
    -e "s|@CMAKE_UP@|$up|" -e "s|@CMAKE_PROBE@|$probe|" \
    -e "s|@CMAKE_LIBDIR@|$(below "$libdir" '${_doorbell_prefix}')|" \
    -e "s|@CMAKE_INCLUDEDIR@|$(below "$includedir" '${_doorbell_prefix}')|" \
    -e "s|@CMAKE_LIBS_PRIVATE@|$(echo "$private" | sed 's/ /;/g')|" "pkg/$1"
}

# The three kinds of things there are. Each is told once, below.
file() { # MODE SOURCE FOLDER
  case $action in
    install) install -d "$destdir$3" && install -m "$1" "$2" "$destdir$3/" ;;
    uninstall) rm -f "$destdir$3/${2##*/}" && prune "$3" ;;
  esac
}
filled() { # TEMPLATE FOLDER
  case $action in
    install) fill "$1.in" >"$scratch/$1" && file 644 "$scratch/$1" "$2" ;;
    uninstall) file 644 "$1" "$2" ;;
  esac
}
link() { # TARGET NAME FOLDER
  case $action in
    install) ln -sf "$1" "$destdir$3/$2" ;;
    uninstall) rm -f "$destdir$3/$2" && prune "$3" ;;
  esac
}
# Folders that are ours alone go, and below DESTDIR all that are empty. Others may have been there before.
prune() { # FOLDER
  if [ -n "$destdir" ]; then
    (cd "$destdir" && rmdir -p ".$1") 2>/dev/null || :
  else
    case $1 in
      */cmake/doorbell) rmdir "$1" 2>/dev/null || : ;;
    esac
  fi
}

case $action in
  install)
    umask 022
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT ;;
  uninstall) ;;
  *) echo "install: unknown: $action" >&2; exit 1 ;;
esac

file 755 "$build/libdoorbell.so.$version" "$libdir"
link "libdoorbell.so.$version" "libdoorbell.so.$major" "$libdir"
link "libdoorbell.so.$major" libdoorbell.so "$libdir"
file 644 "$build/libdoorbell.a" "$libdir"
file 644 include/doorbell.h "$includedir"
filled doorbell.pc "$libdir/pkgconfig"
filled doorbell-config.cmake "$libdir/cmake/doorbell"
filled doorbell-config-version.cmake "$libdir/cmake/doorbell"
# These are made by targets of their own, and installed if they were.
for page in "$build"/man/man[1-9]/*.[1-9]; do
  if [ -e "$page" ]; then file 644 "$page" "$mandir/man${page##*.}"; fi
done
if [ -e "$build/doorbell-check" ]; then file 755 "$build/doorbell-check" "$bindir"; fi
