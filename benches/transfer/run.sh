#!/usr/bin/env bash
# Installs what is missing and compares the downloads; takes the better part of an hour with all of them.
#   benches/transfer/run.sh                        all, and writes the tables into docs/benchmarks.md
#   benches/transfer/run.sh --only plain,cdn ...   flags go to the runner (see --help); only prints, unless --write
# LARDER names another larder than the one of this checkout, which is built otherwise.
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_BUILD_JOBS="${CARGO_BUILD_JOBS:-$(nproc)}"
[ $# -eq 0 ] && set -- --write

need() { command -v "$1" >/dev/null || { echo "$1 is missing: install $2, then run this again" >&2; exit 1; }; }
debian() { # program, package
  command -v "$1" >/dev/null && return
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && { apt-get update -qq; apt-get install -y -qq "$2" >/dev/null; }
  need "$1" "$2"
}
need cargo Rust; need python3 "Python 3.10 or later, with venv"
debian aria2c aria2; debian curl curl; debian openssl openssl

if [ -z "${LARDER:-}" ]; then
  cargo build --release --locked --quiet --manifest-path ../../Cargo.toml
  LARDER="${CARGO_TARGET_DIR:-../../target}/release/larder"
fi
export CARGO_TARGET_DIR="$PWD/target/cargo"
cargo build --release --locked --quiet
cargo build --release --locked --quiet --manifest-path peers/hf-hub/Cargo.toml
if ! cmp -s requirements.txt target/venv/.want; then
  rm -rf target/venv; mkdir -p target; python3 -m venv target/venv
  target/venv/bin/pip install -q --disable-pip-version-check -r requirements.txt
  cp requirements.txt target/venv/.want
fi

# Eight GiB of tmpfs must not outlive the run, however it ends; nor must the runner, its hub and its clients, which
# are a process group of their own (set -m).
memory="$(mktemp -d /dev/shm/larder-transfer-bench.XXXXXX)"
disk="$(mktemp -d "$PWD/target/disk.XXXXXX")"
trap 'rm -rf "$memory" "$disk"' EXIT
set -m
target/cargo/release/transfer-bench run --larder "$LARDER" --memory "$memory" --disk "$disk" "$@" &
runner=$!
trap 'kill -TERM -- "-$runner"; wait "$runner"; exit 130' INT TERM HUP
wait "$runner"
