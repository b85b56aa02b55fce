"""RQ with its SimpleWorker, which runs jobs in its own process, one after the other; its Worker forks for each."""

import os
import sys

from redis import Redis
from rq import Queue, SimpleWorker

import tasks
from record import Recorder, now, pause, ready

BULK = 500


def main(verb: str, jobs: str, seconds: str = "0", _concurrency: str = "1") -> None:
    connection = Redis.from_url(os.environ["REDIS_URL"])
    queue = Queue("bench", connection=connection)
    count = int(jobs)
    if verb == "preload":
        for start in range(0, count, BULK):
            some = range(start, min(count, start + BULK))
            queue.enqueue_many([Queue.prepare_data(tasks.noop, args=(n, now())) for n in some])
    elif verb == "enqueue":
        for n in range(count):
            pause()
            queue.enqueue(tasks.noop, n, now())
    else:
        tasks.recorder = Recorder(count, int(seconds))
        worker = SimpleWorker([queue], connection=connection)
        ready()
        worker.work(logging_level="ERROR")


if __name__ == "__main__":
    main(*sys.argv[1:])
