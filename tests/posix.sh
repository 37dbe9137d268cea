#!/usr/bin/env bash
# posix.sh [FSX_OPS]: pjdfstest and fsx on a fresh local cluster's mount. Prints counts and what failed; exit
# status 1 if anything failed. Needs root; installs the two suites with cargo if they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."
ops=${1:-100000}
for suite in pjdfstest fsx; do
    command -v "$suite" >/dev/null || cargo install --locked "$suite"
done
cargo build --release --locked --bins
export PATH=$PWD/target/release:$PATH
work=$(mktemp -d)
mount=$work/mnt
mkdir "$mount"
cleanup() {
    gfsctl local down "$work/cluster" >"$work/down.log" 2>&1 || cat "$work/down.log"
    mountpoint -q "$mount" || rm -rf "$work"
}
trap cleanup EXIT
gfsctl local up "$work/cluster" --mount "$mount"
status=0

echo "== pjdfstest"
cat >"$work/pjdfstest.toml" <<'TOML'
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
stat_st_birthtime = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["games", "games"]]
TOML
chmod 755 "$work"
mkdir -m 777 "$mount/pjd"
(cd "$mount/pjd" && timeout 1200 pjdfstest -c "$work/pjdfstest.toml" -p "$mount/pjd") >"$work/pjd.out" 2>&1 || status=1
grep -aE ' FAILED$' "$work/pjd.out" || true
tail -n 1 "$work/pjd.out"

echo "== fsx, $ops operations"
for seed in 1 2 3 4; do
    if fsx -S "$seed" -N $((ops / 4)) -P "$work" "$mount/fsx.$seed" >"$work/fsx.$seed.out" 2>&1; then
        echo "seed $seed: $((ops / 4)) operations, no mismatch"
    else
        status=1
        echo "seed $seed: FAILED"
        tail -n 15 "$work/fsx.$seed.out"
    fi
done
exit $status
