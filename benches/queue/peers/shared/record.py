"""What the Python programs share: the clock, the pause and the record of a worker (src/lib.rs says it in words)."""

import json
import random
import threading
import time


def now() -> int:
    """Microseconds since 1970, CLOCK_REALTIME."""
    return time.time_ns() // 1000


def pause() -> None:
    time.sleep(random.uniform(0.020, 0.120))


def ready() -> None:
    print('{"ready":true}', flush=True)


class Recorder:
    """Collects what a worker saw and prints it once."""

    def __init__(self, jobs: int, seconds: int):
        self.jobs, self.micros, self.lock = jobs, seconds * 1_000_000, threading.Lock()
        self.first = self.ended = 0
        self.latencies = []

    def begin(self, at: int) -> None:
        moment = now()
        self.first = self.first or moment
        self.latencies.append(moment - at)

    def end(self) -> None:
        moment = now()
        with self.lock:
            self.ended += 1
            over = self.ended >= self.jobs or moment - self.first >= self.micros
            if self.jobs and over:
                report = {"jobs": self.ended, "first": self.first, "last": moment, "latencies": self.latencies}
                print(json.dumps(report), flush=True)
                self.jobs = 0
