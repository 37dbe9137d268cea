#!/usr/bin/env bash
# Puts eight deliberate bugs into the programs, one at a time (see proto/src/mutant.rs), and runs the tests that
# must notice each. Succeeds if all are noticed, and if the same tests pass without a bug.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(-p gfs-master-core -p gfs-master -p gfs-chunkserver)
# bug, package of the tests, the tests that notice it
mutants='
NoDirectorySync        gfs-chunkserver  test(store::tests::crash::)
AcknowledgeBeforeSync  gfs-master       test(log::tests::crash::)
NoVersionBump          gfs-master       test(chunks::a_missing_replica_raises_the_version)
DeleteUnknown          gfs-master       test(chunks::replicas_that_nobody_knows_are_never_deleted)
SkippedChecksum        gfs-chunkserver  test(store::tests::basic::what_arrives_damaged_is_refused)
NoReplyCache           gfs-master-core  test(ops::batch::tests::a_retry_gets_the_first_answer)
StaleRead              gfs-chunkserver  test(reads::reads_stop_when_the_master_is_not_heard)
TruncatedLog           gfs-master       test(log::tests::damage::damage_in_front_of_a_good_record)
'
# Exit code of nextest when tests ran and some failed; any other failure is one of this script.
tests_failed=100

run() { # bug or "none", expression; prints nothing, returns nextest's code
    local bug=$1 code=0
    shift
    if [ "$bug" != none ]; then export GFS_MUTANT=$bug; else unset GFS_MUTANT; fi
    cargo nextest run "${packages[@]}" --features gfs-proto/mutants --locked --no-fail-fast \
        --failure-output never --success-output never --hide-progress-bar -E "$1" >"$log" 2>&1 || code=$?
    unset GFS_MUTANT
    return "$code"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo nextest run "${packages[@]}" --features gfs-proto/mutants --locked --no-run

caught=0 all=0 every=
while read -r bug package tests; do
    [ -n "$bug" ] || continue
    all=$((all + 1))
    expression="package($package) and $tests"
    every="${every:+$every or }($expression)"
    code=0
    run "$bug" "$expression" || code=$?
    case $code in
        "$tests_failed") caught=$((caught + 1)); echo "caught    $bug  by $tests" ;;
        0) echo "SURVIVED  $bug  $tests" ;;
        *) cat "$log"; echo "mutants.sh: the tests for $bug did not run (code $code)" >&2; exit 1 ;;
    esac
done <<<"$mutants"

if ! run none "$every"; then
    cat "$log"
    echo "mutants.sh: without a bug these tests fail, too" >&2
    exit 1
fi
echo "$caught of $all caught"
[ "$caught" = "$all" ]
