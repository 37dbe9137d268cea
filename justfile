# The one door to everything that is done with this tree. `just` lists the recipes.

default:
    @just --list

# Formatting, lints and the tests that take seconds
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo nextest run --workspace --locked --lib

# Everything that takes minutes, end-to-end tests on real mounts included
test:
    ./test.sh

# A local cluster in DIR, mounted at MOUNTPOINT
cluster MOUNTPOINT DIR="":
    {{ if DIR == "" { "" } else { "GFS_DIR=" + DIR } }} ./quickstart.sh {{MOUNTPOINT}}

# POSIX suites against a fresh mount: pjdfstest and fsx; counts and failures are printed
posix FSX_OPS="100000":
    tests/posix.sh {{FSX_OPS}}

# The fault machine: 1,000 SIGKILLs, 1,000 power cuts and all other faults under load, and the table as in
# docs/reliability.md
faults *ARGS="--report target/faults.md":
    cargo build --workspace --bins --locked
    time "${CARGO_TARGET_DIR:-target}/debug/gfs-faults" {{ARGS}}

# The same workloads on our mount and on the peers' (needs the benchmark scripts, see docs/benchmarks.md)
bench BENCH="../shared/bench" RUNS="1" +SYSTEMS="gfs moosefs":
    tests/bench.sh {{BENCH}} {{RUNS}} {{SYSTEMS}}

# Start-up with 100,000 chunks: the chunk store alone, and a chunkserver until its full report is in
bench-start:
    cargo test --release --locked -p gfs-chunkserver -- --ignored --nocapture

# What metadata costs: a million files of one chunk in DIR; bytes per file in memory and on disk, by table
bench-metadata DIR FILES="1000000":
    cargo run --release --locked -p gfs-master --example metadata_bench -- {{DIR}} {{FILES}}

# Eight deliberate bugs, one at a time: each has to be noticed by the tests
mutants:
    tests/mutants.sh

# The whole system in simulated worlds under faults: 10,000 of them, or one SEED step by step; --rpc: the RPC layer
sim *SEED:
    cargo run --quiet --profile sim --locked -p gfs-tests --bin gfs-sim -- {{SEED}}
