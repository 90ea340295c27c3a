#!/bin/sh
# Applies each mutant of proof/mutants to a copy of the sources and runs what must notice: the simulator, a model of loom
# or a test. Prints a line for each, and a sum. `proof/mutants.sh NAME...` runs only those.
#
# A mutant is a patch. Its first lines say the rule that it breaks and what runs; of several, each must notice:
#   rule: no news for a handle that is gone
#   run: sim            the simulator, two million steps
#   run: sim-poll       the same over poll(2)
#   run: loom FILTER    models of loom
#   run: shuttle FILTER models of shuttle
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
cargo=${CARGO:-cargo}
target=${TARGET:-$here/target}
copy=$target/mutants/tree
log=$target/mutants/log
mkdir -p "$copy"
[ $# -gt 0 ] || set -- $(cd "$here/proof/mutants" && ls *.patch | sed 's/\.patch$//')
killed=0
all=0
of=$#
begin=$(date +%s)
# Seconds for each; a minute is enough where nothing else runs.
patience=${PATIENCE:-60}

export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_INCREMENTAL=true
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true
unset SEED

for name in "$@"; do
    patch=$here/proof/mutants/$name.patch
    all=$((all + 1))
    rm -rf "$copy/src"
    cp -R "$here/src" "$here/Cargo.toml" "$here/Cargo.lock" "$here/build.rs" "$copy/"
    # The copy is a package alone: the C tests stay where they are.
    sed -i 's/^members = .*/members = ["."]/' "$copy/Cargo.toml"
    if ! (cd "$copy" && patch -s -p1) <"$patch"; then
        echo "mutant $all/$of $name: DOES NOT APPLY"
        continue
    fi
    # Times decide what cargo builds again.
    find "$copy/src" -name '*.rs' -exec touch {} +
    noticed=all
    while read -r run; do
        case $run in
        sim) flags='--cfg doorbell_sim' filter='sim_' dir=sim ;;
        sim-poll)
            flags='--cfg doorbell_sim --cfg doorbell_backend="poll" --cfg doorbell_small_generations'
            filter='sim_' dir=sim-poll
            ;;
        loom*) flags='--cfg loom' filter=${run#loom } dir=loom ;;
        shuttle*) flags='--cfg shuttle' filter=${run#shuttle } dir=shuttle ;;
        *)
            echo "mutant $all/$of $name: what is to run? ($run)"
            noticed=
            continue
            ;;
        esac
        built=$target/mutants/$dir
        if ! (cd "$copy" && RUSTFLAGS=$flags "$cargo" test -q --release --lib --no-run --target-dir "$built") \
            >"$log" 2>&1 </dev/null; then
            echo "mutant $all/$of $name: DOES NOT BUILD ($run)"
            noticed=
            continue
        fi
        start=$(date +%s)
        (cd "$copy" && STEPS=2000000 JOBS=1 SHRINK=0 SHUTTLE_RUNS=20000 RUST_BACKTRACE=0 RUSTFLAGS=$flags \
            timeout "$patience" "$cargo" test -q --release --lib --target-dir "$built" "$filter" -- --nocapture) \
            >"$log" 2>&1 </dev/null
        case $? in
        0)
            echo "mutant $all/$of $name: SURVIVED $run ($(sed -n 's/^rule: //p' "$patch"))"
            noticed=
            ;;
        124)
            echo "mutant $all/$of $name: SURVIVED $run for $patience s, without an end"
            noticed=
            ;;
        *)
            how=$(grep -a -m1 -E '^violation|panicked at|Causality|[Dd]eadlock' "$log" | cut -c1-110)
            echo "mutant $all/$of $name: killed in $(($(date +%s) - start)) s by $run: $how"
            ;;
        esac
    done <<RUNS
$(sed -n 's/^run: //p' "$patch")
RUNS
    [ -z "$noticed" ] || killed=$((killed + 1))
done
echo "mutants_killed=$killed mutants=$all seconds=$(($(date +%s) - begin))"
[ $killed = $all ]
