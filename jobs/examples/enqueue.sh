#!/bin/sh
# One line each: ask a fleet for a model through Redis, and a larder over HTTP. Both print JSON with the id of the job.
#   enqueue.sh redis redis://redis.internal:6379/0 Qwen/Qwen3-8B
#   enqueue.sh http http://127.0.0.1:7717 Qwen/Qwen3-8B
set -eu
case "$1" in
redis)
  redis-cli -e -u "$2" FCALL larder_enqueue 1 '{larder}:' '{"v":1,"kind":"download","repo":"'"$3"'","hosts":"pool"}'
  ;;
http)
  curl -sS --fail-with-body -H 'Content-Type: application/json' "$2/v1/jobs" \
    -d '{"kind":"download","repo":"'"$3"'","hosts":"pool"}'
  ;;
*)
  echo "usage: enqueue.sh redis|http URL OWNER/NAME" >&2
  exit 2
  ;;
esac
