"""Asks a larder for a model over HTTP and waits. Needs the package `httpx`.

    python enqueue_http.py http://127.0.0.1:7717 Qwen/Qwen3-8B gpu-7

Beyond loopback a larder wants a token: LARDER_TOKEN.
jobs/clients/python/larder_client.py is the same with retries, time-outs and typed errors.
"""

import json
import os
import sys
import time

import httpx


def main():
    url, repo, host = sys.argv[1:4]
    hosts = host if host in ("this", "pool") else [host]
    token = os.environ.get("LARDER_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as larder:
        answer = larder.post("/v1/jobs", json={"kind": "download", "repo": repo, "hosts": hosts})
        if answer.is_error:
            problem = answer.json()
            sys.exit(f"{problem['reason']}: {problem['detail']}; hint: {problem['hint']}")
        job = answer.json()
        while job["state"] not in ("ready", "failed", "cancelled"):
            time.sleep(0.2)
            job = larder.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
    print(json.dumps(job))
    sys.exit(0 if job["state"] == "ready" else 1)


if __name__ == "__main__":
    main()
