"""A client of larder's HTTP API in one file; copy it. It needs `httpx` and nothing else.

    from larder_client import Larder, LarderError

    with Larder("http://gpu-7:7717", token=open("/run/secrets/larder").read()) as larder:
        job = larder.stage("Qwen/Qwen3-8B@main", hosts=["gpu-7"], timeout=3600)
        print(job["path"])

Without an address it asks `LARDER_API_URL`, else http://127.0.0.1:7717; `unix:///var/lib/larder/larder.sock` is a socket.
The token is `LARDER_TOKEN`, or in the file that `LARDER_TOKEN_FILE` names, if there is one. As a program:

    python larder_client.py stage Qwen/Qwen3-8B --hosts pool --timeout 3600

Every failure is a LarderError with a `reason` of larder's closed table (docs/reasons.md), and of a class by what to do.
"""

import argparse
import json
import os
import sys
import time

import httpx

TERMINAL = ("ready", "done", "failed", "cancelled")


class LarderError(Exception):
    """What went wrong, in larder's words."""
    exit_code = 1

    def __init__(self, reason, detail, hint="", status=None, job=None):
        super().__init__(f"{reason}: {detail}" + (f"; hint: {hint}" if hint else ""))
        self.reason, self.detail, self.hint, self.status, self.job = reason, detail, hint, status, job


class InvalidRequest(LarderError):
    """The request breaks the contract; asking again is of no use."""
    exit_code = 2


class NotFound(LarderError):
    """There is no such job, model or host."""
    exit_code = 3


class Refused(LarderError):
    """By policy or by facts: gated, unauthorized, too large for the disk or the card."""
    exit_code = 4


class TryLater(LarderError):
    """It may pass: the queue or the source is away, or has had enough."""
    exit_code = 75


class Cancelled(LarderError):
    """Somebody called it off."""


class TimedOut(TryLater):
    """The time that the caller gave is over; the job goes on."""


CLASSES = {
    "invalid_request": InvalidRequest,
    "unsupported_version": InvalidRequest,
    "not_found": NotFound,
    "cancelled": Cancelled,
}
REFUSALS = "gated unauthorized unsafe_format incompatible_gpu insufficient_vram structure_invalid insufficient_disk protected"
PASSING = """rate_limited source_unavailable stalled io_error queue_unavailable lease_lost internal outside_window host_drained
host_unhealthy memory_pressure interrupted host_gone offline"""
CLASSES |= dict.fromkeys(REFUSALS.split(), Refused) | dict.fromkeys(PASSING.split(), TryLater)


def error(reason, detail, **more):
    """The error of the class that the reason has."""
    return CLASSES.get(reason, LarderError)(reason, detail, **more)


class Larder:
    """One larder, or with it the whole fleet that shares its queue."""

    def __init__(self, url=None, token=None, timeout=30.0, retry_for=20.0):
        url = url or os.environ.get("LARDER_API_URL") or "http://127.0.0.1:7717"
        token = token or os.environ.get("LARDER_TOKEN")
        if not token and os.environ.get("LARDER_TOKEN_FILE"):
            with open(os.environ["LARDER_TOKEN_FILE"], encoding="utf-8") as file:
                token = file.read()
        # A file may hold several while they are replaced; all of them are good.
        headers = {"Authorization": f"Bearer {word}" for word in (token or "").split()[:1]}
        transport = None
        if url.startswith("unix://"):
            transport, url = httpx.HTTPTransport(uds=url.removeprefix("unix://")), "http://localhost"
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)
        self._retry_for = retry_for

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._http.close()

    def _ask(self, method, path, **more):
        """Sends a request that may be repeated; what may pass is tried again for `retry_for` seconds."""
        until, pause = time.monotonic() + self._retry_for, 0.25
        while True:
            try:
                answer = self._http.request(method, path, **more)
                if answer.is_success:
                    return answer.json()
                failed = self._problem(answer)
            except httpx.TransportError as lost:
                hint = "see whether it runs, and for https:// whether its certificate is trusted (SSL_CERT_FILE)"
                failed = error("queue_unavailable", f"larder cannot be reached: {lost}", hint=hint)
            if not isinstance(failed, TryLater) or time.monotonic() + pause > until:
                raise failed
            time.sleep(pause)
            pause = min(pause * 2, 5)

    @staticmethod
    def _problem(answer):
        try:
            body = answer.json()
        except ValueError:
            body = {}
        reason = body.get("reason") or ("queue_unavailable" if answer.status_code >= 500 else "invalid_request")
        detail = body.get("detail") or body.get("title") or answer.text[:200]
        return error(reason, detail, hint=body.get("hint", ""), status=answer.status_code)

    def enqueue(self, **job):
        """Asks for a job (jobs/schema/job.v1.json); the same want in flight is the same job. Returns it with `created`."""
        return self._ask("POST", "/v1/jobs", json={"kind": "download", **job})

    def stage(self, model, hosts="this", timeout=None, on_progress=None, **fields):
        """Asks for a model (`owner/name[@revision]`) and waits until it is there; returns the job, with its `path`."""
        repo, _, revision = model.partition("@")
        fields |= {"revision": revision} if revision else {}
        return self.wait(self.enqueue(repo=repo, hosts=hosts, **fields)["id"], timeout, on_progress)

    def wait(self, id, timeout=None, on_progress=None):
        """Waits until the job has ended; raises what it failed for. While larder is away it waits on."""
        until, pause, job = None if timeout is None else time.monotonic() + timeout, 0.1, None
        while True:
            try:
                job = self.job(id)
            except TryLater:
                if until is None and job is None:
                    raise
            if job and on_progress:
                on_progress(job)
            if job and job["state"] in TERMINAL:
                if job["state"] in ("failed", "cancelled"):
                    raise error(job["reason"] or "cancelled", job.get("message") or job["state"], job=job)
                return job
            if until is not None and time.monotonic() + pause > until:
                raise TimedOut("interrupted", f"the job {id} is not done after {timeout} s", job=job)
            time.sleep(pause)
            pause = min(pause * 1.5, 2)

    def job(self, id):
        return self._ask("GET", f"/v1/jobs/{id}")

    def cancel(self, id, requested_by=None):
        """Takes back one requester's wish, or everybody's."""
        return self._ask("DELETE", f"/v1/jobs/{id}", params={"requested_by": requested_by} if requested_by else {})

    def hosts(self):
        """The hosts of the fleet, as far as they are there."""
        return self._ask("GET", "/v1/hosts")["hosts"]


def main():
    parser = argparse.ArgumentParser(description="Asks a larder for a model.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    stage = verbs.add_parser("stage", help="stage a model and print where it is")
    stage.add_argument("model")
    stage.add_argument("--hosts", default="this", help="this, pool, or names with commas between them")
    stage.add_argument("--timeout", type=float)
    cancel = verbs.add_parser("cancel", help="call a job off")
    cancel.add_argument("id")
    verbs.add_parser("hosts", help="the hosts of the fleet")
    args = parser.parse_args()
    try:
        with Larder() as larder:
            if args.verb == "stage":
                hosts = args.hosts if args.hosts in ("this", "pool", "best", "all") else args.hosts.split(",")
                job = larder.stage(args.model, hosts=hosts, timeout=args.timeout)
                print(job["path"] or "\n".join(f"{one['host']}: {one['state']}" for one in job["children"]))
            else:
                print(json.dumps(larder.cancel(args.id) if args.verb == "cancel" else larder.hosts()))
    except LarderError as failed:
        print(failed, file=sys.stderr)
        sys.exit(failed.exit_code)


if __name__ == "__main__":
    main()
