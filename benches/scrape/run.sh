#!/usr/bin/env bash
# What a scrape of larder costs with few and with many models, and what an idle larder takes, beside node_exporter.
#   benches/scrape/run.sh            all, about seven minutes after the build, and writes the tables into docs/benchmarks.md
#   benches/scrape/run.sh --idle 30  flags go to the runner; only prints, unless --write
# LARDER and FAKE_NVML_LIBRARY name others than those of this checkout, which are built otherwise.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CARGO_BUILD_JOBS="${CARGO_BUILD_JOBS:-$(nproc)}"
[ $# -eq 0 ] && set -- --write

need() { command -v "$1" >/dev/null || { echo "$1 is missing: install $2, then run this again" >&2; exit 1; }; }
need python3 "Python 3.10 or later"; need prometheus-node-exporter "the package prometheus-node-exporter"
if [ -z "${LARDER:-}" ]; then
  need cargo Rust
  cargo build --release --locked --quiet --bin larder
  LARDER="${CARGO_TARGET_DIR:-target}/release/larder"
fi
if [ -z "${FAKE_NVML_LIBRARY:-}" ]; then
  cargo build --release --locked --quiet -p fake-nvml
  FAKE_NVML_LIBRARY="${CARGO_TARGET_DIR:-target}/release/libfake_nvml.so"
fi
exec python3 benches/scrape/scrape.py --larder "$(realpath "$LARDER")" --nvml "$(realpath "$FAKE_NVML_LIBRARY")" "$@"
