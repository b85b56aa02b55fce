#!/usr/bin/env bash
# Installs what is missing and compares the queues; takes about ten minutes with all of them.
#   benches/queue/run.sh                 all, and writes the table into docs/benchmarks.md
#   benches/queue/run.sh larder bullmq   only those, and only prints; with --write it also writes
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_BUILD_JOBS="${CARGO_BUILD_JOBS:-$(nproc)}" CARGO_TARGET_DIR="$PWD/target/cargo"
[ $# -eq 0 ] && set -- --write larder bullmq celery rq apalis apalis-one-thread
for name; do [ "$name" = --write ] || names=1; done
[ -n "${names:-}" ] || set -- "$@" larder bullmq celery rq apalis apalis-one-thread

need() { command -v "$1" >/dev/null || { echo "$1 is missing: install $2, then run this again" >&2; exit 1; }; }
need cargo Rust; need redis-server "redis-server 7 or later"; need setpriv util-linux
cargo build --release --locked --quiet
for name; do
  case "$name" in
    larder) cargo build --release --locked --quiet -p queue-bench-larder ;;
    apalis | apalis-one-thread) cargo build --release --locked --quiet --manifest-path peers/apalis/Cargo.toml ;;
    bullmq)
      need node "Node 20 or later"; need npm npm
      if ! cmp -s peers/bullmq/package-lock.json peers/bullmq/node_modules/.want; then
        # Installs what the lock file says. Not `npm ci`: it refuses where a registry lacks the optional packages
        # of other platforms.
        npm install --no-save --prefix peers/bullmq --no-audit --no-fund --silent
        cp peers/bullmq/package-lock.json peers/bullmq/node_modules/.want
      fi ;;
    celery | rq)
      need python3 "Python 3.10 or later, with venv"
      if ! cmp -s requirements.txt target/venv/.want; then
        rm -rf target/venv; mkdir -p target; python3 -m venv target/venv
        target/venv/bin/pip install -q --disable-pip-version-check -r requirements.txt
        cp requirements.txt target/venv/.want
      fi ;;
  esac
done
exec target/cargo/release/queue-bench "$@"
