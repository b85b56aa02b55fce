#!/usr/bin/env bash
# What can be checked of the files for containers and services without a container engine and without systemd running.
#   deploy/check.sh           schemas, linters, the unit: seconds, as tests/run.sh runs it
#   deploy/check.sh --image   also builds the image's runtime stage with buildah (needs root) and runs the binary in it as
#                             its user; LARDER_BINARY names the binary [default: target/release/larder, built if missing],
#                             LARDER_BASE a base as a tar file [default: made anew, in minutes]
set -euo pipefail
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
py="${LARDER_CHECK_PYENV:-target/pyenv}/bin"
say() { printf '\n== %s\n' "$*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

say "compose files: the schema of the specification"
"$py/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.gpu.yml
# The checker does not know the tag that takes a list away from the file below. What the two are together is checked by
# tests/it/deploy/compose.rs.
sed 's/!reset //' docker-compose.cpu.yml > "$work/cpu.yml"
"$py/check-jsonschema" --builtin-schema vendor.compose-spec "$work/cpu.yml"

say "Dockerfile: hadolint"
"$py/hadolint" Dockerfile

say "Kubernetes: the schemas of the API"
"$py/kubernetes-validate" --strict deploy/kubernetes/*.yaml

say "scripts: a shell reads them"
sh -n deploy/compose/redis.sh
bash -n deploy/check.sh

say "unit: systemd reads it"
if command -v systemd-analyze >/dev/null; then
  # It only lacks the program that it starts.
  sed 's|/usr/local/bin/larder|/bin/true|' deploy/systemd/larder.service > "$work/larder.service"
  # A key that it does not know is only told.
  told="$(systemd-analyze verify --man=no "$work/larder.service" 2>&1)" || true
  [ -z "$told" ] || { echo "$told" >&2; exit 1; }
  # Above 2.5 (of 10) something was opened that need not be.
  systemd-analyze security --offline=true --threshold=25 --no-pager "$work/larder.service" | tail -n 1
else
  echo "systemd-analyze is not here: install the package systemd to check deploy/systemd"
fi
[ "${1:-}" = --image ] || exit 0

say "image: what building it needs"
if ! command -v buildah >/dev/null || ! command -v mmdebstrap >/dev/null; then
  as_root apt-get update -q && as_root apt-get install -qy --no-install-recommends buildah mmdebstrap
fi
binary="${LARDER_BINARY:-target/release/larder}"
[ -x "$binary" ] || cargo build --release --locked --features otlp --bin larder
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot CONTAINERS_STORAGE_CONF="$work/storage.conf"
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/graph"\nrunroot = "%s/run"\n' "$work" "$work" > "$CONTAINERS_STORAGE_CONF"

say "image: a base from Debian's packages, in place of debian:bookworm-slim"
base="${LARDER_BASE:-$work/base.tar}"
[ -f "$base" ] || mmdebstrap --quiet --variant=minbase --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$base"
container="$(buildah from scratch)"
buildah add --quiet "$container" "$base" / >/dev/null
buildah commit --quiet "$container" localhost/larder-base >/dev/null
buildah rm "$container" >/dev/null

say "image: the runtime stage"
# Stands in for the stage that compiles.
mkdir -p "$work/build/etc/ssl/certs"
cp "$binary" "$work/build/larder"
cp /etc/ssl/certs/ca-certificates.crt "$work/build/etc/ssl/certs/"
buildah bud --quiet --format docker --target runtime --build-arg BASE=localhost/larder-base \
  --build-arg RUST=localhost/larder-base --build-context "build=$work/build" \
  -t localhost/larder . >/dev/null

say "image: the binary in it, as its user"
container="$(buildah from localhost/larder)"
run() { buildah run --isolation chroot "$container" -- "$@"; }
run larder --version
run sh -c 'test "$(id -u):$(id -g)" = 1000:1000 && test -w /var/lib/larder && test -w /models/hub && ! touch /usr/local/bin/x 2>/dev/null'
run sh -c 'larder doctor --ready; test $? = 75'
run sh -c 'larder --set api.listen= serve 2>/dev/null & for n in 1 2 3 4 5 6 7 8 9; do sleep 1; larder doctor --ready && break; done; kill $!; wait $!'
buildah inspect --type image localhost/larder | "$py/python" -c '
import json, sys
config = json.load(sys.stdin)["Docker"]["config"]
assert config["Healthcheck"]["Test"] == ["CMD", "larder", "doctor", "--ready"], config
assert config["User"] == "1000:1000" and config["Entrypoint"] == ["larder"] and config["Cmd"] == ["serve"], config
'
mount="$(buildah mount "$container")"
for part in "" /usr/local/bin/larder; do
  printf 'image:%s %s\n' "$part" "$(du -sh --apparent-size "$mount$part" | cut -f 1)"
done
buildah rm "$container" >/dev/null
