"""What a scrape of larder costs, and what an idle larder takes, beside node_exporter in the same run.

The cache holds small files that are laid out like models; the GPUs are those of the library that the tests load. Time is
that of a client on this machine, over one connection for each scrape, as Prometheus with its default settings has at
most. Processor time and memory are read from /proc.
"""

import argparse
import gzip
import hashlib
import http.client
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import tempfile
import time

SIZES = (10, 200, 2000)
GPUS = 8
SCRAPES = 300
BEGIN, END = "<!-- scrape-bench: begin -->", "<!-- scrape-bench: end -->"
TICK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def fill(cache, models):
    """Models as the hub's client lays them out: a blob, a snapshot that links to it, a ref."""
    for n in range(models):
        repo = cache / f"models--bench--model-{n}"
        commit = hashlib.sha1(str(n).encode()).hexdigest()
        blob = repo / "blobs" / hashlib.sha256(str(n).encode()).hexdigest()
        snapshot = repo / "snapshots" / commit
        for folder in (blob.parent, snapshot, repo / "refs"):
            folder.mkdir(parents=True)
        blob.write_bytes(b"x" * 100)
        (snapshot / "model.safetensors").symlink_to(os.path.relpath(blob, snapshot))
        (repo / "refs" / "main").write_text(commit)


def get(port, compressed):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    begun = time.perf_counter()
    connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"} if compressed else {})
    answer = connection.getresponse()
    body = answer.read()
    took = time.perf_counter() - begun
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"/metrics answered {answer.status}")
    return took, body


class Process:
    """A process that ends with the block."""

    def __init__(self, command, env, log):
        self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)

    def wait_for(self, port):
        begun = time.monotonic()
        while time.monotonic() - begun < 60:
            if self.process.poll() is not None:
                raise SystemExit(f"it ended with {self.process.returncode}")
            try:
                return get(port, False)
            except OSError:
                time.sleep(0.05)
        raise SystemExit("it does not answer")

    def seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024


def larder(args, folder, models, port, log):
    cache = folder / f"hub-{models}"
    fill(cache, models)
    gpus = folder / "gpus.json"
    cards = [{"uuid": f"GPU-{n:08x}-0000-4000-8000-000000000000"} for n in range(GPUS)]
    gpus.write_text(json.dumps({"gpus": cards}))
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "HF_HUB_CACHE": str(cache),
        "FAKE_NVML": str(gpus),
        "LARDER__GPU__NVML_LIBRARY": args.nvml,
        "LARDER__STATE__PATH": str(folder / f"state-{models}"),
        "LARDER__API__LISTEN": f"127.0.0.1:{port}",
        "LARDER__HUB__ENDPOINT": "http://127.0.0.1:1",
    }
    return Process([args.larder, "serve"], env, log)


def series(body):
    return sum(1 for line in body.splitlines() if line and not line.startswith(b"#"))


def scrapes(args, folder, log):
    rows = []
    for models in SIZES:
        port = free_port()
        with larder(args, folder, models, port, log) as process:
            process.wait_for(port)
            begun = time.monotonic()
            while b"larder_model_info" not in get(port, False)[1] and time.monotonic() - begun < 60:
                time.sleep(0.1)
            times = [get(port, False)[0] for _ in range(SCRAPES)]
            packed = [get(port, True) for _ in range(SCRAPES)]
            body = get(port, False)[1]
            assert gzip.decompress(packed[0][1]).count(b"larder_model_info{") == models
            times.sort()
            rows.append([
                f"larder, {models} models, {GPUS} GPUs", series(body), len(body), len(packed[0][1]),
                statistics.median(times) * 1e3, times[int(0.99 * len(times))] * 1e3,
                statistics.median(took for took, _ in packed) * 1e3,
            ])
    port = free_port()
    with node_exporter(port, log) as process:
        process.wait_for(port)
        times = sorted(get(port, False)[0] for _ in range(SCRAPES))
        packed = [get(port, True) for _ in range(SCRAPES)]
        body = get(port, False)[1]
        rows.append([
            "node_exporter", series(body), len(body), len(packed[0][1]), statistics.median(times) * 1e3,
            times[int(0.99 * len(times))] * 1e3, statistics.median(took for took, _ in packed) * 1e3,
        ])
    return rows


def node_exporter(port, log):
    command = ["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{port}"]
    return Process(command, {"PATH": os.environ["PATH"]}, log)


def idle(args, folder, log):
    """Side by side, each scraped every fifteen seconds."""
    ports = [free_port(), free_port(), free_port()]
    folder = folder / "idle"
    folder.mkdir()
    with larder(args, folder, 10, ports[0], log) as few, larder(args, folder, 2000, ports[1], log) as many:
        with node_exporter(ports[2], log) as node:
            all_of_them = [
                ("larder, 10 models", few, ports[0]),
                ("larder, 2000 models", many, ports[1]),
                ("node_exporter", node, ports[2]),
            ]
            for _, process, port in all_of_them:
                process.wait_for(port)
            # What a start costs is over by then.
            time.sleep(20)
            before = [process.seconds() for _, process, _ in all_of_them]
            begun = time.monotonic()
            while time.monotonic() - begun < args.idle:
                for _, _, port in all_of_them:
                    get(port, True)
                time.sleep(min(15, max(0, args.idle - (time.monotonic() - begun))))
            spent = time.monotonic() - begun
            return [
                [name, process.memory() / 2**20, (process.seconds() - seconds) / spent * 100]
                for (name, process, _), seconds in zip(all_of_them, before)
            ]


def tables(scraped, idled, args):
    version = subprocess.run([args.larder, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    load = os.getloadavg()[0]
    lines = [
        f"{version}; {os.cpu_count()} processors, load {load:.1f} at the end of the run.", "",
        "| scrape of | series | bytes | compressed | p50, ms | p99, ms | p50 compressed, ms |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, count, size, packed, p50, p99, packed_p50 in scraped:
        lines.append(f"| {name} | {count:,} | {size:,} | {packed:,} | {p50:.2f} | {p99:.2f} | {packed_p50:.2f} |")
    lines += ["", f"| idle for {args.idle} s | RSS, MiB | % of a core |", "|---|---:|---:|"]
    for name, memory, processor in idled:
        lines.append(f"| {name} | {memory:.1f} | {processor:.2f} |")
    return "\n".join(lines)


def targets(scraped, idled):
    """What was wanted, what came of it, and whether all of it is reached."""
    large, (_, memory, processor) = scraped[len(SIZES) - 1], idled[0]
    rows = [
        (f"scrape of {SIZES[-1]:,} models and {GPUS} GPUs, p50", 5.0, large[4], "ms"),
        ("resident memory at rest", 30.0, memory, "MiB"),
        ("processor at rest, of a core", 0.2, processor, "%"),
    ]
    lines = ["| target | wanted | measured | reached |", "|---|---:|---:|---|"]
    for what, most, measured, unit in rows:
        reached = "yes" if measured <= most else "**no**"
        lines.append(f"| {what} | at most {most:g} {unit} | {measured:.2f} {unit} | {reached} |")
    return "\n".join(lines) + "\n\n", all(measured <= most for _, most, measured, _ in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--larder", required=True)
    parser.add_argument("--nvml", required=True)
    parser.add_argument("--idle", type=int, default=300, help="seconds of rest")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/benchmarks.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as log:
        folder = pathlib.Path(folder)
        scraped, idled = scrapes(args, folder, log), idle(args, folder, log)
    head, reached = targets(scraped, idled)
    text = head + tables(scraped, idled, args)
    print(text)
    if args.write:
        page = pathlib.Path("docs/benchmarks.md")
        old = page.read_text()
        head, rest = old.split(BEGIN)
        page.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
    if not reached:
        raise SystemExit("not all targets are reached")


if __name__ == "__main__":
    main()
