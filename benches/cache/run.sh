#!/usr/bin/env bash
# Installs what is missing and compares the listings: minutes, after a build of larder that takes longer.
#   benches/cache/run.sh                 all, and writes the tables into docs/benchmarks.md
#   benches/cache/run.sh --rounds 1 ...  flags go to the runner (see --help); only prints, unless --write
# LARDER names another larder than the one of this checkout, which is built otherwise.
set -euo pipefail
# Before the folder changes, so that it may be named from the caller's.
[ -n "${LARDER:-}" ] && LARDER="$(realpath "$LARDER")"
cd "$(dirname "$0")"
export CARGO_BUILD_JOBS="${CARGO_BUILD_JOBS:-$(nproc)}"
[ $# -eq 0 ] && set -- --write

need() { command -v "$1" >/dev/null || { echo "$1 is missing: install $2, then run this again" >&2; exit 1; }; }
need cargo Rust; need python3 "Python 3.10 or later, with venv"

if [ -z "${LARDER:-}" ]; then
  cargo build --release --locked --quiet --manifest-path ../../Cargo.toml
  LARDER="${CARGO_TARGET_DIR:-../../target}/release/larder"
fi
export CARGO_TARGET_DIR="$PWD/target/cargo"
cargo build --release --locked --quiet
if ! cmp -s requirements.txt target/venv/.want; then
  rm -rf target/venv; mkdir -p target; python3 -m venv target/venv
  target/venv/bin/pip install -q --disable-pip-version-check -r requirements.txt
  cp requirements.txt target/venv/.want
fi

# The runner and what it starts are a process group of their own (set -m), which ends with this script.
set -m
target/cargo/release/cache-bench --larder "$LARDER" --venv target/venv "$@" &
runner=$!
trap 'kill -TERM -- "-$runner"; wait "$runner" || true; exit 130' INT TERM HUP
wait "$runner"
