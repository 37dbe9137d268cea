#!/usr/bin/env bash
# Installs what the tests need, builds, and runs every test: unit, property, crash and end-to-end tests on
# real mounts. Needs Rust, root and /dev/fuse on Debian 12. Leaves no mount, process or loop device behind.
set -euo pipefail
cd "$(dirname "$0")"

need=()
has() { command -v "$1" >/dev/null 2>&1; }
has fusermount3 || need+=(fuse3)
has git         || need+=(git)
has sqlite3     || need+=(sqlite3)
has rsync       || need+=(rsync)
has gcc         || need+=(gcc)
has setfattr    || need+=(attr)
has strace      || need+=(strace)
has mkfs.ext4   || need+=(e2fsprogs)
has mkfs.xfs    || need+=(xfsprogs)
has ip          || need+=(iproute2)
has nft         || need+=(nftables)
has faketime    || need+=(faketime)
if [ ${#need[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || { echo "test.sh: the tests need ${need[*]}; run as root or install them with apt-get" >&2; exit 1; }
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${need[@]}" >/dev/null
fi
[ "$(id -u)" = 0 ] || { echo "test.sh: the end-to-end tests mount file systems; run as root" >&2; exit 1; }
[ -c /dev/fuse ] || { echo "test.sh: /dev/fuse is missing; load the fuse module (modprobe fuse)" >&2; exit 1; }

# The end-to-end tests run the real programs, so these are built first.
cargo build --workspace --bins --locked
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --locked "$@"
else
    cargo test --workspace --locked "$@"
fi
