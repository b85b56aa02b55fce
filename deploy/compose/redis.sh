#!/bin/sh
# The Redis of docker-compose.gpu.yml: keeps every accepted job on the disk, throws none away, and knows one user with the
# rights of docs/queue.md. The password is read from a file and is in no argument and no environment.
#
#   REDIS_PASSWORD_FILE  the file; its first line is the password
#   REDIS_RUN            a folder in memory for the configuration, which has the password's hash
#   REDIS_DATA           the folder of the data
set -eu
umask 077
run=${REDIS_RUN:-/tmp} data=${REDIS_DATA:-/data}
hash=$(head -n 1 "${REDIS_PASSWORD_FILE:-/run/secrets/redis-password}" | tr -d '\r\n' | sha256sum | cut -d ' ' -f 1)
if [ "$hash" = e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 ]; then
  echo "the password file is empty: write one into it, for example with openssl rand -hex 32" >&2
  exit 2
fi
cat > "$run/redis.conf" <<CONF
port ${REDIS_PORT:-6379}
# Whoever comes in has the password; without a user that needs none there is nobody to be protected from.
protected-mode no
dir $data
# Accepted means on the disk: docs/queue.md.
appendonly yes
appendfsync always
# A full memory refuses new jobs; any other policy throws accepted ones away.
maxmemory ${REDIS_MAXMEMORY:-256mb}
maxmemory-policy noeviction
user default off
user larder on #$hash ~{larder}:* &{larder}:* -@all +evalsha +script|load +info +subscribe +ping +publish +time +get +set +del +exists +incr +persist +pexpire +rename +hget +hgetall +hset +hsetnx +hdel +zadd +zrem +zcard +zrange +zrangebyscore +zrevrange +zremrangebyscore
CONF
exec redis-server "$run/redis.conf"
