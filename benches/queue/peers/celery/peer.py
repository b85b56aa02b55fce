"""Celery as its documentation sets it up for many short I/O-bound tasks: gevent, large prefetch, no results."""

import os
import sys

from celery import Celery, signals
from record import Recorder, now, pause, ready

app = Celery("bench", broker=os.environ["REDIS_URL"])
app.conf.update(
    task_ignore_result=True,
    # "If you have lots of short tasks, and throughput/roundtrip latency is important to you", 64 or 128.
    worker_prefetch_multiplier=64,
    # The record goes to standard output.
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
)
recorder = Recorder(int(os.environ.get("BENCH_JOBS", 0)), int(os.environ.get("BENCH_SECONDS", 0)))


@app.task(name="noop")
def noop(n: int, at: int) -> None:
    recorder.begin(at)


@signals.task_postrun.connect
def ended(**_):
    recorder.end()


@signals.worker_ready.connect
def started(**_):
    ready()


def main(verb: str, jobs: str, seconds: str = "", concurrency: str = "") -> None:
    if verb == "worker":
        # The command of the documentation patches the standard library before anything is imported. The three
        # options turn off chatter between workers that a single worker does not need.
        os.environ |= {"BENCH_JOBS": jobs, "BENCH_SECONDS": seconds}
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR"]
        celery = os.path.join(os.path.dirname(sys.executable), "celery")
        workdir = os.path.dirname(os.path.abspath(__file__))
        os.execv(celery, [celery, "-q", f"--workdir={workdir}", "-A", "peer", "worker",
                          "--pool=gevent", f"--concurrency={concurrency}", *quiet])
    with app.producer_or_acquire() as producer:
        for n in range(int(jobs)):
            if verb == "enqueue":
                pause()
            noop.apply_async((n, now()), producer=producer)


if __name__ == "__main__":
    main(*sys.argv[1:])
