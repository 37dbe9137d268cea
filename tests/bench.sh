#!/usr/bin/env bash
# bench.sh SCRIPTS RUNS SYSTEM...: the workloads of SCRIPTS/workloads.sh on each SYSTEM in turn, RUNS times: `gfs` (a
# local cluster of release builds, three copies) or a peer that SCRIPTS/peers knows (moosefs, glusterfs, cephfs) or
# `local`. Results go to target/bench/SYSTEM-RUN.json and, side by side, to standard output as Markdown.
# BENCH_GROUPS selects groups of workloads.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts=$(cd "$1" && pwd)
runs=$2
shift 2
out=$PWD/target/bench
mkdir -p "$out"
cargo build --release --locked --bins
export PATH=$PWD/target/release:$PATH

gfs() {
    local work
    work=$(mktemp -d "${TMPDIR:-/tmp}/gfs-bench.XXXXXX")
    mkdir "$work/mnt"
    gfsctl local up "$work/cluster" --mount "$work/mnt" >&2
    "$scripts/workloads.sh" "$work/mnt" "$1" || true
    gfsctl local down "$work/cluster" >&2
    rm -rf "$work"
    sync
}

columns=()
for run in $(seq "$runs"); do
    for system in "$@"; do
        case $system in
        gfs) gfs "$out/gfs-$run.json" ;;
        *) "$scripts/run.sh" "$out" "$run" "$system" ;;
        esac
    done
done
for system in "$@"; do
    files=$(for run in $(seq "$runs"); do echo "$out/$system-$run.json"; done | paste -sd,)
    columns+=("$system=$files")
done
# The first column is what the others are compared with: put the peer there.
printf '%s\n' "${columns[@]}" | tac | xargs "$scripts/compare.py" --spread --markdown
