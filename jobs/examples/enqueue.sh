#!/bin/sh
# One call each: ask a fleet for a model through Redis, and a larder over HTTP. Both print JSON with the id of the job.
#   enqueue.sh redis redis://redis.internal:6379/0 Qwen/Qwen3-8B
#   enqueue.sh http http://127.0.0.1:7717 Qwen/Qwen3-8B
# A password of Redis is better in REDISCLI_AUTH than in the address, where every list of processes shows it; the token
# that larder wants beyond loopback is in the file that LARDER_TOKEN_FILE names.
set -eu
[ $# -eq 3 ] || set -- usage
case "$1" in
redis)
  redis-cli -e -u "$2" FCALL larder_enqueue 1 '{larder}:' '{"v":1,"kind":"download","repo":"'"$3"'","hosts":"pool"}'
  ;;
http)
  token=
  [ -z "${LARDER_TOKEN_FILE:-}" ] || token="Authorization: Bearer $(head -n 1 "$LARDER_TOKEN_FILE")"
  # From standard input, since everybody sees the arguments of a program.
  printf '%s\n' "$token" | curl -sS --fail-with-body -H @- -H 'Content-Type: application/json' "$2/v1/jobs" \
    -d '{"kind":"download","repo":"'"$3"'","hosts":"pool"}'
  ;;
*)
  echo "usage: enqueue.sh redis|http URL OWNER/NAME" >&2
  exit 2
  ;;
esac
