#!/usr/bin/env bash
# The checks of the dashboards that need npm, Chromium or minutes; everything else about monitoring/ is in tests/it/monitoring.
#   monitoring/check.sh types                  the JSON against @grafana/schema, with tsc
#   monitoring/check.sh pictures URL MINUTES [END]   asks the Prometheus at URL for the MINUTES before END (a time in RFC 3339;
#                                              now without one), and draws the dashboards from its answers with @grafana/ui
#                                              into docs/monitoring-*.png
# Both install exact versions of what they need into target/monitoring; Chromium and fonts come from Debian.
set -euo pipefail
cd "$(dirname "$0")/.."
here="$PWD/monitoring/pictures" work="$PWD/target/monitoring"

say() { printf '\n== %s\n' "$*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
usage() { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }

packages() {
  command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or newer, then run this again" >&2; exit 1; }
  mkdir -p "$work"
  if ! cmp -s "$here/package.json" "$work/.installed"; then
    cp "$here/package.json" "$work/package.json"
    # Some parts of @grafana/ui say that they want an older React than it does.
    (cd "$work" && npm install --no-audit --no-fund --ignore-scripts --legacy-peer-deps --loglevel error)
    cp "$here/package.json" "$work/.installed"
  fi
}

types() {
  say "dashboards against @grafana/schema"
  python3 -B "$here/typed.py" > "$work/dashboards.ts"
  (cd "$work" && npx tsc --noEmit --strict --skipLibCheck --moduleResolution bundler --module esnext --target es2022 \
    dashboards.ts)
  # A check that cannot fail is none: a unit that is a number, an option that does not exist.
  sed -e '0,/"unit": "none"/s//"unit": 7/' -e '0,/"colorMode"/s//"colourMode"/' "$work/dashboards.ts" > "$work/wrong.ts"
  if (cd "$work" && npx tsc --noEmit --strict --skipLibCheck --moduleResolution bundler --module esnext --target es2022 \
    wrong.ts) >/dev/null; then
    echo "tsc does not see mistakes" >&2; exit 1
  fi
  echo "all of them are what Grafana's types say"
}

pictures() {
  if ! command -v chromium >/dev/null || ! fc-list | grep -q Inter; then
    as_root apt-get update -q && as_root apt-get install -qy --no-install-recommends chromium fonts-inter
  fi
  command -v pngquant >/dev/null || as_root apt-get install -qy --no-install-recommends pngquant
  say "answers of $1"
  { printf 'globalThis.ANSWERS = '; python3 -B "$here/record.py" "$@"; } > "$work/answers.js"
  say "pictures"
  cp "$here/page.tsx" "$work/page.tsx"
  # The CommonJS build: bundled from the other one, some components that it takes from older packages are none.
  (cd "$work" && npx esbuild page.tsx --bundle --outfile=page.js --log-level=error --jsx=automatic \
    --alias:@grafana/ui=./node_modules/@grafana/ui/dist/cjs/index.cjs \
    --loader:.svg=dataurl --loader:.woff2=dataurl --loader:.ttf=dataurl '--define:process.env.NODE_ENV="production"')
  printf '%s' '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="page.css"><style>body{margin:0}</style>' \
    '<div id="page"></div><script src="answers.js"></script><script src="page.js"></script>' > "$work/page.html"
  for name in fleet host jobs fit; do
    rows="$(python3 -c 'import json, sys; print(max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in json.load(open(sys.argv[1]))["panels"]))' \
      "monitoring/grafana/dashboards/$name.json")"
    chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files --no-first-run \
      --user-data-dir="$work/chromium" --window-size="1600,$((56 + rows * 38))" --virtual-time-budget=20000 \
      --screenshot="$work/$name.png" "file://$work/page.html#$name,dark" >"$work/chromium.log" 2>&1
    pngquant --force --speed 1 --quality 60-95 --output "docs/monitoring-$name.png" "$work/$name.png"
    echo "docs/monitoring-$name.png $(stat -c %s "docs/monitoring-$name.png") bytes"
  done
}

case "${1:-}" in
  types) [ $# = 1 ] || usage; packages; types ;;
  pictures) [ $# = 3 ] || [ $# = 4 ] || usage; packages; pictures "${@:2}" ;;
  *) usage ;;
esac
