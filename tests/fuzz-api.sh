#!/usr/bin/env bash
# Ten minutes of made-up requests against the running binary: no answer may be a 5xx other than an honest 503, and each
# must be what docs/openapi.json says.
#   tests/fuzz-api.sh [SECONDS]     600 unless given; needs what tests/run.sh installs
set -euo pipefail
cd "$(dirname "$0")/.."
export LARDER_TEST_FUZZ_SECONDS="${1:-600}" LARDER_TEST_PYTHON="${LARDER_TEST_PYTHON:-$PWD/target/pyenv/bin/python}"
exec cargo test --all-features --locked --test it -- --exact --nocapture openapi::a_property_based_client_finds_no_fault
