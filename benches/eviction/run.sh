#!/usr/bin/env bash
# Compares larder's eviction with other policies by simulation: seconds, after a build of larder that takes minutes.
#   benches/eviction/run.sh                writes the tables into docs/benchmarks.md and the plot to docs/eviction.svg
#   benches/eviction/run.sh --seeds 3 ...  flags go to the program (see --help); only prints, unless --write
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_BUILD_JOBS="${CARGO_BUILD_JOBS:-$(nproc)}" CARGO_TARGET_DIR="$PWD/target"
[ $# -eq 0 ] && set -- --write
command -v cargo >/dev/null || { echo "cargo is missing: install Rust, then run this again" >&2; exit 1; }

cargo build --release --locked --quiet
exec target/release/eviction-bench "$@"
