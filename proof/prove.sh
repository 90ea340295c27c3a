#!/bin/sh
# The proofs, and one line of counts at the end. Every number is read from what this run printed; a part that was not run
# counts 0. `quick` is a stage of `make test`, which runs models, fuzzing and more as stages of their own.
#
# usage: prove.sh quick|all
set -u
how=$1
make=${MAKE:-make}
log=$(mktemp -d) || exit 1
trap 'rm -rf "$log"' EXIT
failed=0

# Runs a target, shows it, keeps its output. A target that this tree does not have is skipped.
part() {
    name=$1
    shift
    if ! grep -q "^$name:" Makefile; then
        echo "prove: no target $name here, skipped"
        return
    fi
    echo "prove: $name"
    { "$make" --no-print-directory "$name" "$@" 2>&1; echo $? >"$log/status"; } | tee -a "$log/$name"
    [ "$(cat "$log/status")" = 0 ] || { failed=1; echo "prove: $name FAILED"; }
}

# The sum of what the lines "name=number" of a part say.
sum() {
    cat "$log/$1" 2>/dev/null | grep -o "\b$2=[0-9]*" | cut -d= -f2 | awk '{ n += $1 } END { printf "%d", n }'
}

if [ "$how" = quick ]; then
    steps=8000000
    poll=2000000
    runs=10000
else
    steps=${STEPS:-1000000000}
    poll=${STEPS:-1000000000}
    runs=${SHUTTLE_RUNS:-200000}
fi
part museum
part faults
part sim-seeds STEPS= SEED= JOBS=
part sim STEPS=$steps SEED=1 JOBS=2
part sim-poll STEPS=$poll SEED=1 JOBS=2
part shuttle SHUTTLE_RUNS=$runs
if [ "$how" = all ]; then
    part loom
    part fuzz SECONDS=600
    part mutants
fi

sim_steps=$(($(sum sim steps) + $(sum sim-poll steps)))
violations=$(($(sum sim violations) + $(sum sim-poll violations)))
# cargo's sum: "test result: ok. 17 passed; 0 failed; ..."
# How often each class of fault was met: "met EINTR: 17", once for each simulator.
echo "prove: faults met: $(sed -n 's/^met \(.*\): \([0-9]*\)$/\1=\2/p' "$log/sim" "$log/sim-poll" 2>/dev/null |
    awk -F = '{ if (!($1 in n)) order[++k] = $1; n[$1] += $2 } END { for (i = 1; i <= k; i++) printf "%s%s=%d", (i > 1 ? ", " : ""), order[i], n[order[i]] }')"
echo "prove: shuttle_models=$(grep -o '[0-9]* passed' "$log/shuttle" 2>/dev/null | awk '{ n += $1 } END { printf "%d", n }')"
models=$(grep -o '[0-9]* passed' "$log/loom" 2>/dev/null | awk '{ n += $1 } END { printf "%d", n }')
echo "proof: sim_steps=$sim_steps violations=$violations loom_models=$models" \
    "museum=$(sum museum museum_passed)/$(sum museum museum_entries) fault_points=$(sum faults fault_points)" \
    "leaks=$(sum faults leaks) fuzz_execs=$(sum fuzz execs)" \
    "mutants_killed=$(sum mutants mutants_killed)/$(sum mutants mutants)"
exit $failed
