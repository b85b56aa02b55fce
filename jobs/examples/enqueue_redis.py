"""Asks a fleet for a model through Redis, without larder's own client: FCALL larder_enqueue, then FCALL larder_job.

    python enqueue_redis.py redis://redis.internal:6379/0 Qwen/Qwen3-8B gpu-7

A password is better in the environment, where no list of processes shows it: REDIS_USERNAME and REDIS_PASSWORD.
Needs the package `redis`. In front of sentinels: redis.sentinel.Sentinel([...]).master_for("mymaster"); in a cluster:
redis.cluster.RedisCluster.from_url(url). The calls are the same.
"""

import json
import os
import sys
import time

import redis

QUEUE = "{larder}:"  # the prefix of all keys: queue.namespace in braces, then a colon


def enqueue(server, repo, host, key=None):
    """The id of the job. Asking again with the same key answers the same job, so that a lost answer does no harm."""
    job = {"v": 1, "kind": "download", "repo": repo, "hosts": "pool" if host == "pool" else [host]}
    if key:
        job["idempotency_key"] = key
    return json.loads(server.fcall("larder_enqueue", 1, QUEUE, json.dumps(job)))["id"]


def wait(server, id, seconds):
    """The job once it has ended. `message` and `reason` say why it failed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        job = json.loads(server.fcall("larder_job", 1, QUEUE, id))
        if job["state"] in ("ready", "done", "failed", "cancelled"):
            return job
        time.sleep(0.2)
    raise TimeoutError(f"the job {id} is not done after {seconds} s")


def main():
    url, repo, host = sys.argv[1:4]
    login = {"username": os.environ.get("REDIS_USERNAME"), "password": os.environ.get("REDIS_PASSWORD")}
    server = redis.Redis.from_url(url, **{name: value for name, value in login.items() if value})
    try:
        id = enqueue(server, repo, host, key=sys.argv[4] if len(sys.argv) > 4 else None)
    except redis.ResponseError as refused:
        # "invalid_request …; hint: …": the first word is one of larder's reasons.
        sys.exit(str(refused))
    job = wait(server, id, 3600)
    print(json.dumps({"asked": id, **job}))
    sys.exit(0 if job["state"] == "ready" else 1)


if __name__ == "__main__":
    main()
