#!/bin/sh
# The linker for the shared library: cc, which also gives what is exported its version (DOORBELL_0).
# rustc hands the linker a list of the exports that names no version, and a second list is refused (GNU ld) or its
# versions are ignored (lld). So the version is written into rustc's list, which is a temporary file of its own.
# The name of this file must not be one that rustc takes for another kind of linker ("link", "ld", "...-clang").
for argument do
  case $argument in
    -Wl,--version-script=*)
      list=${argument#*=}
      if grep -q '^ *bell_create;' "$list"; then sed -i.unversioned '1s/^{/DOORBELL_0 {/' "$list"; fi ;;
  esac
done
exec cc "$@"
