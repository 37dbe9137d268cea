#!/usr/bin/env bash
# quickstart.sh MOUNTPOINT: builds everything, starts a cluster on this machine (a master, three chunkservers) and
# mounts it. Run again it says that it runs already. Data and logs are kept in $GFS_DIR, by default ~/.local/share/gfs.
set -euo pipefail

die() { printf 'quickstart.sh: %s\n' "$*" >&2; exit "${status:-1}"; }
usage() { status=2 die "$1; usage: quickstart.sh MOUNTPOINT"; }

[ $# -eq 1 ] || usage "give one mountpoint"
case $1 in
-h | --help) sed -n '2,3s/^# //p' "$0"; exit 0 ;;
-*) usage "unknown option $1" ;;
esac
mount=$(realpath -ms -- "$1")
cd "$(dirname "$(realpath "$0")")"
state=$(realpath -ms -- "${GFS_DIR:-${HOME:?}/.local/share/gfs}")

command -v cargo >/dev/null 2>&1 || [ ! -f "${HOME:-}/.cargo/env" ] || . "$HOME/.cargo/env"
command -v cargo >/dev/null 2>&1 ||
    die "Rust is missing; install it from https://rustup.rs, then run this again"
need=()
command -v fusermount3 >/dev/null 2>&1 || need+=(fuse3)
# Rust links with the C compiler.
command -v cc >/dev/null 2>&1 || need+=(gcc libc6-dev)
if [ ${#need[@]} -gt 0 ]; then
    as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    { [ -z "$as_root" ] || command -v sudo >/dev/null; } && command -v apt-get >/dev/null ||
        die "missing here: ${need[*]}; install as root: apt-get install ${need[*]}"
    echo "installing ${need[*]}"
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${need[@]}" >/dev/null
fi
[ -c /dev/fuse ] || die "/dev/fuse is missing; load the kernel's module as root: modprobe fuse"

echo "building (the first time takes some minutes)"
cargo build --release --locked --bins
bin=$(realpath "${CARGO_TARGET_DIR:-target}")/release

mkdir -p -- "$(dirname "$state")"
"$bin/gfsctl" local up "$state" --mount "$mount"
master=$("$bin/gfsctl" --json local status "$state" | sed -n 's/^  "master": "\(.*\)",\{0,1\}$/\1/p')
export_line=
[ "$master" = 127.0.0.1:9400 ] || export_line="  export GFS_MASTER=$master
"
cat <<TEXT

Try:
  export PATH=$bin:\$PATH
${export_line}  cp -a /usr/include $mount/ && diff -r /usr/include $mount/include
  df -h $mount; du -sh $mount/include
  gfsctl status
  gfsctl stat /include/stdio.h

Stop it; the data stays, and this script or \`gfsctl local up $state\` brings it back:
  gfsctl local down $state
Its logs are in $state/logs.
TEXT
