#!/usr/bin/env python3
"""Writes larder's four dashboards: `python3 monitoring/grafana/dashboards.py` writes dashboards/*.json beside it,
`--check` only says whether they are what it would write.

A host is Prometheus' label `instance`, whatever is in it. Queries name larder's own metrics (docs/metrics.md) and `up`,
never recording rules, so that a dashboard works in a Prometheus that has none of the rules.
"""

import json
import sys
from pathlib import Path

from panels import (BLUE, GREEN, GREY, HEALTH, ORANGE, REACHED, RED, STATES, bad_below, bad_from, bars, choice, column,
                    dashboard, dashed, labels, lines, now, of_query, query, stat, table, thresholds, timeline)

FOLDER = Path(__file__).resolve().parent / "dashboards"
RATE = "[$__rate_interval]"
HOST = 'instance=~"$host"'
GPU = 'instance=~"$host", uuid=~"$gpu"'
OPEN, DONE, FAILED = 'state!~"ready|done|failed|cancelled"', 'state=~"ready|done"', 'state="failed"'
CARD = "* on (instance, uuid) group_left (index, name) larder_gpu_info"
SHARED = "In a fleet with one Redis every host counts all jobs of the queue; choose so under Queue."


def events(counter, by=""):
    """What happened between two points: each event is in one bar, and is 1. `increase` over touching ranges loses what
    falls between them, over longer ones it counts twice, and it makes fractions of both."""
    rise = f"clamp_min({counter}{{{HOST}}} - {counter}{{{HOST}}} offset $__interval, 0)"
    return f"sum by ({by}) ({rise})" if by else f"sum({rise})"


def host(several=True):
    return labels("host", "Host", "label_values(larder_build_info, instance)", several)


def gpu():
    return labels("gpu", "GPU", 'label_values(larder_gpu_info{instance=~"$host"}, uuid)')


QUEUE = choice("queue", "Queue", "Whether the jobs of the hosts are added up, or all see the same ones.",
               each_host_has_its_own="sum", one_Redis_for_all="max")


def jobs(matchers, by="kind, state"):
    return f"$queue by ({by}) (larder_jobs{{{HOST}, {matchers}}})"


def fleet():
    hosts = table(
        "Hosts", "What each host has, can and does now.",
        [now(f"max by (instance, version) (larder_build_info{{{HOST}}})"),
         now(f"max by (instance) (larder_host_healthy{{{HOST}}})"),
         now(f"count by (instance) (larder_gpu_info{{{HOST}}})"),
         now(f"sum by (instance) (larder_gpu_lost{{{HOST}}})"),
         now(f"sum by (instance) (larder_gpu_memory_free_bytes{{{HOST}}})"),
         now(f"min by (instance) (larder_disk_free_bytes{{{HOST}}} / larder_disk_total_bytes{{{HOST}}})"),
         now(f"sum by (instance) (larder_cache_used_bytes{{{HOST}}})"),
         now(f"count by (instance) (larder_model_bytes{{{HOST}}})"),
         now(f"sum by (instance) (rate(larder_download_bytes_total{{{HOST}}}{RATE}))"),
         now(f"sum by (instance) (increase(larder_jobs_failed_total{{{HOST}}}[1d]))")],
        {"instance": "Host", "version": "Version", "Value #B": "Health", "Value #C": "GPUs", "Value #D": "Lost",
         "Value #E": "Free VRAM", "Value #F": "Free disk", "Value #G": "Cache", "Value #H": "Models",
         "Value #I": "Receiving", "Value #J": "Failed in a day"},
        [column("Version", "none", width=90), column("Health", "none", mappings=HEALTH, width=110),
         column("GPUs", "none", width=80), column("Lost", "none", bad_from(1), width=80),
         column("Free VRAM", "bytes"), column("Free disk", "percentunit", bad_below(0.03, 0.1), width=110),
         column("Cache", "bytes"), column("Models", "none", width=90), column("Receiving", "Bps"),
         column("Failed in a day", "none", bad_from(1, 10), decimals=0)],
        join="instance", hide=["Value #A"])
    models = table(
        "Which host has which model", "Files that revisions share are counted once. Last use as larder knows it.",
        [now(f"max by (instance, repo) (larder_model_bytes{{{HOST}}})"),
         now(f"max by (instance, repo) (larder_model_last_used_timestamp_seconds{{{HOST}}}) * 1000")],
        {"repo": "Model", "instance": "Host", "Value #A": "Bytes", "Value #B": "Last used"},
        [column("Host", "none", width=160), column("Bytes", "bytes", width=120),
         column("Last used", "dateTimeFromNow", width=150)], join="merge", sort="Bytes")
    cards = table(
        "GPUs and what is free on them", "A GPU that is lost has no free memory and no row.",
        [now(f"sum by (instance, index, name) (larder_gpu_memory_free_bytes{{{HOST}}} {CARD})")],
        {"instance": "Host", "index": "GPU", "name": "Name", "Value #A": "Free"},
        [column("Host", "none", width=120), column("GPU", "none", width=60), column("Free", "bytes", width=110)],
        join=None, sort="Free")
    return dashboard(
        "larder-fleet", "larder / Fleet", "All hosts: are they well, what is free, who has what.",
        [host(), QUEUE],
        [(4, [(3, stat("Hosts up", "Hosts whose larder answers.",
                       f'count(up{{job="larder", {HOST}}} == 1) or vector(0)', steps=bad_below(1))),
              (3, stat("Hosts down", "Hosts whose larder does not answer.",
                       f'count(up{{job="larder", {HOST}}} == 0) or vector(0)', steps=bad_from(1))),
              (3, stat("Degraded hosts", "Hosts on which something is known to be wrong with GPUs or drives.",
                       f"count(larder_host_healthy{{{HOST}}} == 0) or vector(0)", steps=bad_from(1))),
              (3, stat("GPUs lost", "GPUs that the driver cannot reach any more.",
                       f"sum(larder_gpu_lost{{{HOST}}}) or vector(0)", steps=bad_from(1))),
              (3, stat("GPUs", "GPUs of all hosts, lost ones included.",
                       f"count(larder_gpu_info{{{HOST}}}) or vector(0)")),
              (3, stat("Free VRAM", "What anybody could have, over all GPUs.",
                       f"sum(larder_gpu_memory_free_bytes{{{HOST}}})", "bytes")),
              (3, stat("Receiving", "Bytes that come in now, over all hosts.",
                       f"sum(rate(larder_download_bytes_total{{{HOST}}}{RATE}))", "Bps")),
              (3, stat("Failed in a day", "Jobs that failed for good within 24 hours.",
                       f"sum(increase(larder_jobs_failed_total{{{HOST}}}[1d]))", steps=bad_from(1, 10),
                       decimals=0))]),
         (8, [(24, hosts)]),
         (8, [(8, lines("Free VRAM by host", "What anybody could have.",
                        [query(f"sum by (instance) (larder_gpu_memory_free_bytes{{{HOST}}})", "{{instance}}")],
                        "bytes")),
              (8, lines("Disk by class", "What may happen to the bytes in the caches, and what is free beside them.",
                        [query(f"sum by (class) (larder_cache_used_bytes{{{HOST}}})", "{{class}}"),
                         query(f"sum(larder_disk_free_bytes{{{HOST}}})", "free")],
                        "bytes", stacked=True,
                        overrides=[of_query("B", colour={"mode": "fixed", "fixedColor": GREY}, fill=0, width=1)])),
              (8, lines("Receiving by host", "Bytes of models that come in.",
                        [query(f"sum by (instance) (rate(larder_download_bytes_total{{{HOST}}}{RATE}))",
                               "{{instance}}")], "Bps"))]),
         (8, [(12, lines("Jobs by state", f"Jobs that have not ended. {SHARED}",
                         [query(jobs(OPEN, "state"), "{{state}}")], "none", stacked=True)),
              (12, bars("Speed of the disks", "Writing, and reading what is not in memory with several readers, when "
                        "the host was last profiled (larder profile). A cache in memory has no such reading.",
                        f'larder_profile_disk_bytes_per_second{{{HOST}, test=~"write|read_cold_parallel"}}',
                        "{{instance}}, {{test}}", "Bps", thresholds((None, BLUE)), low=0))]),
         (10, [(14, models), (10, cards)])])


def one_host():
    def per_gpu(metric, what=""):
        return query(f"{metric}{{{GPU}}} {CARD}", f"GPU {{{{index}}}}{what}")

    vram = lines(
        "VRAM", "What is used of each GPU; what the driver keeps for itself and the whole for each kind of GPU.",
        [per_gpu("larder_gpu_memory_used_bytes", " used"),
         query(f"max by (name) (larder_gpu_memory_reserved_bytes{{{GPU}}} {CARD})", "{{name}} reserved"),
         query(f"max by (name) (larder_gpu_memory_total_bytes{{{GPU}}} {CARD})", "{{name}} total")],
        "bytes", overrides=[of_query("B", fill=0), dashed("C", GREY)])
    disk = lines(
        "Disk by class", "The cache by what may happen to its bytes; on top the disk's other files, with what running "
        "downloads have taken. Above the red line room is made, down to the orange one: both count the whole disk, or "
        "the cache alone if cache.capacity is set.",
        [query(f"sum by (class) (larder_cache_used_bytes{{{HOST}}})", "{{class}}"),
         query(f"clamp_min(sum(larder_disk_total_bytes{{{HOST}}}) - sum(larder_disk_free_bytes{{{HOST}}}) "
               f"- sum(larder_cache_used_bytes{{{HOST}}}), 0)", "other files"),
         query(f'max by (of) (larder_cache_watermark_bytes{{{HOST}, watermark="high"}})', "high watermark, {{of}}"),
         query(f'max by (of) (larder_cache_watermark_bytes{{{HOST}, watermark="low"}})', "low watermark, {{of}}"),
         query(f"sum(larder_disk_total_bytes{{{HOST}}})", "size of the disk")],
        "bytes", stacked=True,
        overrides=[of_query("B", colour={"mode": "fixed", "fixedColor": GREY}), dashed("C", RED),
                   dashed("D", ORANGE), dashed("E", GREY)])
    heat = lines(
        "Temperature and power", "A GPU's power has the colour of its temperature, is dotted, and is drawn to the axis on "
        "the right.",
        # Equal names make equal colours; the legend has room for one of each.
        [per_gpu("larder_gpu_temperature_celsius"), per_gpu("larder_gpu_power_watts")],
        "celsius", colour="palette-classic-by-name",
        overrides=[of_query("B", unit="watt", axis="right", dash={"fill": "dot", "dash": [2, 4]}, fill=0,
                            hide={"legend": True, "tooltip": False, "viz": False})])
    health = timeline(
        "Health", "The host's verdict, that of each GPU, and whether the queue is reached. A gap is unknown.",
        [query(f"max(larder_host_healthy{{{HOST}}})", "host"), per_gpu("larder_gpu_healthy"),
         query(f"max(larder_queue_up{{{HOST}}})", "queue")],
        STATES, bad_below(1))
    reasons = table(
        "What is wrong", "Reasons for the host not to be healthy, with the number of GPUs or drives that give them.",
        [now(f"sum by (reason) (larder_host_health_reasons{{{HOST}}})")],
        {"reason": "Reason", "Value #A": "Parts"}, [column("Parts", "none", bad_from(1))], join=None)
    xids = table(
        "Last Xids", "Errors that the driver reported since larder started, the newest of each number.",
        [now(f"max by (index, xid) (larder_gpu_xid_last_timestamp_seconds{{{GPU}}} {CARD}) * 1000")],
        {"index": "GPU", "xid": "Xid", "Value #A": "Last"},
        [column("GPU", "none", width=60), column("Xid", "none", width=70), column("Last", "dateTimeFromNow")],
        join=None, sort="Last")
    return dashboard(
        "larder-host", "larder / Host", "One host on one screen.", [host(several=False), gpu()],
        [(4, [(3, stat("Health", "Whether nothing is known to be wrong with GPUs and drives.",
                       f"max(larder_host_healthy{{{HOST}}})", mappings=HEALTH, steps=bad_below(1))),
              (3, stat("GPUs up", "GPUs that the driver reaches.",
                       f"count(larder_gpu_lost{{{GPU}}} == 0) or vector(0)", steps=bad_below(1))),
              (3, stat("GPUs lost", "GPUs that the driver cannot reach any more.",
                       f"sum(larder_gpu_lost{{{GPU}}}) or vector(0)", steps=bad_from(1))),
              (3, stat("Free VRAM", "What anybody could have.",
                       f"sum(larder_gpu_memory_free_bytes{{{GPU}}})", "bytes")),
              (3, stat("Free disk", "Share of the cache's disk. larder keeps a tenth free unless told otherwise.",
                       f"min(larder_disk_free_bytes{{{HOST}}} / larder_disk_total_bytes{{{HOST}}})", "percentunit",
                       bad_below(0.03, 0.1), decimals=1)),
              (3, stat("Promised", "Free bytes that running downloads were promised and have not taken yet.",
                       f"sum(larder_cache_reserved_bytes{{{HOST}}})", "bytes")),
              (3, stat("Receiving", "Bytes that come in now.",
                       f"sum(rate(larder_download_bytes_total{{{HOST}}}{RATE}))", "Bps")),
              (3, stat("Queue", "Whether larder reaches its queue.", f"max(larder_queue_up{{{HOST}}})",
                       mappings=REACHED, steps=bad_below(1)))]),
         (8, [(10, vram),
              (7, lines("Utilisation", "Share of the time in which a kernel ran.",
                        [per_gpu("larder_gpu_utilization_ratio")], "percentunit", high=1)),
              (7, heat)]),
         (8, [(10, disk),
              (7, lines("Transfers by source", "Bytes of models that come in.",
                        [query(f"sum by (source) (rate(larder_download_bytes_total{{{HOST}}}{RATE}))",
                               "{{source}}")], "Bps", stacked=True)),
              (7, lines("Evictions by reason", "Revisions that were evicted in the time of a bar: a minute, or more where "
                        "the range is long.", [query(events("larder_evictions_total", "reason"), "{{reason}}")],
                        "none", stacked=True, bars=True, least="1m"))]),
         (7, [(12, health), (6, reasons), (6, xids)])])


def run_of_a_night():
    """The last run of each manifest that is on a schedule. In a fleet a job is counted where it was asked for, so sums
    over hosts are right whatever Queue says."""
    def of(what):
        return f"larder_warm_{what}{{{HOST}}}"

    open_ones = f"{of('remaining_bytes')} > 0"
    left = f"sum({of('remaining_bytes')})"
    stats = [
        stat("Planned", "Bytes that the last run of each scheduled manifest was to fetch. What was there before is not "
             "in it.", f"sum({of('planned_bytes')})", "bytes", nothing="no run yet"),
        stat("There", "Bytes of those that have come.", f"sum({of('done_bytes')})", "bytes", nothing="no run yet"),
        stat("Still to come", "What the open jobs of these runs lack. What failed is neither there nor to come.", left,
             "bytes", nothing="no run yet"),
        stat("Ready in", "At the pace of the last quarter of an hour; nothing comes while the window is shut.",
             f"({left} > 0) / (sum(deriv({of('done_bytes')}[15m])) > 0)", "s", nothing="nothing comes"),
        stat("Until the deadline", "Of the first manifest that has bytes to come.",
             f"min({of('deadline_timestamp_seconds')} and {open_ones}) - time()", "s", bad_below(0, 1800),
             nothing="none is open"),
        stat("Models that will not come", "They failed, or were not asked for since they could not be there by the "
             "deadline.", f'sum(larder_warm_models{{{HOST}, state=~"failed|dropped"}})', steps=bad_from(1),
             nothing="no run yet")]
    bytes_ = lines(
        "Overnight run: planned against done", "Bytes of the last run of each scheduled manifest. What lies between the "
        "line and the areas is of models that failed or were called off.",
        [query(f"sum({of('done_bytes')})", "there"), query(left, "still to come"),
         query(f"sum({of('planned_bytes')})", "planned")], "bytes", stacked=True,
        overrides=[of_query("A", colour={"mode": "fixed", "fixedColor": GREEN}),
                   of_query("B", colour={"mode": "fixed", "fixedColor": BLUE}), dashed("C", GREY)])
    states = {"done": GREEN, "running": BLUE, "waiting": GREY, "failed": RED, "cancelled": "purple", "dropped": ORANGE}
    models = lines(
        "Overnight run: models", "What became of the models of these runs; dropped ones were not asked for.",
        [query(f'sum(larder_warm_models{{{HOST}, state="{state}"}})', state) for state in states], "none", stacked=True,
        overrides=[of_query(chr(ord("A") + n), colour={"mode": "fixed", "fixedColor": colour})
                   for n, colour in enumerate(states.values())])
    runs = table(
        "Last runs", "Each manifest on each host that asked for its jobs.",
        [now(f"max by (instance, manifest) ({of('due_timestamp_seconds')}) * 1000"),
         now(f"max by (instance, manifest) ({of('deadline_timestamp_seconds')}) * 1000"),
         now(f"max by (instance, manifest) ({of('planned_bytes')})"),
         now(f"max by (instance, manifest) ({of('remaining_bytes')})")],
        {"manifest": "Manifest", "instance": "Host", "Value #A": "Due", "Value #B": "Deadline", "Value #C": "Planned",
         "Value #D": "To come"},
        [column("Host", "none", width=105), column("Due", "dateTimeFromNow", width=110),
         column("Deadline", "dateTimeFromNow", width=95), column("Planned", "bytes", width=85),
         column("To come", "bytes", width=85)], join="merge", sort="Due")
    return [(4, [(4, one) for one in stats]), (8, [(7, bytes_), (6, models), (11, runs)])]


def overnight():
    done = f'sum(increase(larder_job_duration_seconds_count{{{HOST}, result=~"ready|done"}}[$__range]))'
    received = f"sum(increase(larder_download_bytes_total{{{HOST}}}[$__range]))"
    pace = f"sum(rate(larder_job_duration_seconds_count{{{HOST}}}[1h]))"

    def quantile(q):
        buckets = f'larder_job_duration_seconds_bucket{{{HOST}, result=~"ready|done"}}'
        return query(f"histogram_quantile({q}, sum by (kind, le) (rate({buckets}[1h])))",
                     f"{{{{kind}}}}, {int(q * 100)} %")

    return dashboard(
        "larder-jobs", "larder / Jobs and overnight run",
        "What was planned, what is done, what is left, and why some of it failed. Choose the night as the time range.",
        [host(), QUEUE],
        [*run_of_a_night(),
         (4, [(3, stat("Open", f"Jobs that have not ended. {SHARED}", f"sum({jobs(OPEN)})")),
              (3, stat("Open jobs end in", "Open jobs at the pace of the last hour; unknown if none ended in it. Jobs are not "
                       "equally large, so it is a guess.", f"sum({jobs(OPEN)}) / ({pace} > 0)", "s")),
              (3, stat("Done", "Jobs that ended well within the time range.", done, decimals=0)),
              (3, stat("Failed", "Jobs that failed for good within the time range.",
                       f"sum(increase(larder_jobs_failed_total{{{HOST}}}[$__range]))", steps=bad_from(1, 10),
                       decimals=0)),
              (3, stat("Missed deadlines", "Part of the failed ones.",
                       f'sum(increase(larder_jobs_failed_total{{{HOST}, reason="deadline_missed"}}[$__range]))',
                       steps=bad_from(1), decimals=0)),
              (3, stat("Received", "Bytes within the time range.", received, "bytes")),
              (3, stat("Thrown away", "Share of the received bytes that had to come again.",
                       f"sum(increase(larder_download_wasted_bytes_total{{{HOST}}}[$__range])) / ({received} > 0)",
                       "percentunit", bad_from(0.05, 0.2), decimals=1)),
              (3, stat("Oldest in the queue", "How long a job has been waiting for a worker.",
                       f"max(larder_job_queue_age_seconds{{{HOST}}})", "s", bad_from(3600, 7200)))]),
         (8, [(12, lines("Jobs: done, failed, open", f"All jobs that the queue remembers: it forgets ended ones after "
                         f"queue.retention. {SHARED}",
                         [query(f"sum({jobs(DONE)})", "done"),
                          query(f"sum({jobs(FAILED)})", "failed"),
                          query(f"sum({jobs(OPEN)})", "open")],
                         "none", stacked=True,
                         overrides=[of_query("A", colour={"mode": "fixed", "fixedColor": GREEN}),
                                    of_query("B", colour={"mode": "fixed", "fixedColor": RED}),
                                    of_query("C", colour={"mode": "fixed", "fixedColor": BLUE})])),
              (12, lines("Bytes", "What came in, what of earlier attempts was used again, what was thrown away.",
                         [query(f"sum(rate(larder_download_bytes_total{{{HOST}}}{RATE}))", "received"),
                          query(f"sum(rate(larder_download_resumed_bytes_total{{{HOST}}}{RATE}))", "used again"),
                          query(f"sum(rate(larder_download_wasted_bytes_total{{{HOST}}}{RATE}))", "thrown away")],
                         "Bps"))]),
         (8, [(8, bars("Failures by reason", "Jobs that failed for good within the time range; docs/reasons.md "
                       "explains the words.",
                       f"sum by (reason) (increase(larder_jobs_failed_total{{{HOST}}}[$__range])) > 0",
                       "{{reason}}", steps=thresholds((None, RED)), low=0, decimals=0)),
              (8, bars("Retries by reason", "Attempts that were put back for another try within the time range.",
                       f"sum by (reason) (increase(larder_job_retries_total{{{HOST}}}[$__range])) > 0",
                       "{{reason}}", steps=thresholds((None, ORANGE)), low=0, decimals=0)),
              (8, lines("Jobs by state", f"Jobs that have not ended. {SHARED}",
                        [query(jobs(OPEN, "state"), "{{state}}")], "none", stacked=True))]),
         (8, [(8, lines("Durations", "From the first start to a good end, over the last hour.",
                        [quantile(0.5), quantile(0.9)], "s")),
              (8, lines("Waiting for a worker", "How long the oldest queued job of each kind has been waiting.",
                        [query(f"max by (kind) (larder_job_queue_age_seconds{{{HOST}}})", "{{kind}}")], "s")),
              (8, lines("Answers of the sources", "By status code; 429 means that a source limits us.",
                        [query(f"sum by (code) (rate(larder_http_responses_total{{{HOST}}}{RATE}))", "{{code}}")],
                        "reqps", stacked=True))])],
        span="now-12h")


def fit():
    which = 'instance=~"$host", gpu=~"$card"'
    share = f"larder_gpu_memory_free_bytes{{{HOST}}} / larder_gpu_memory_total_bytes{{{HOST}}}"
    names = "{{architecture}}, {{engine}}, {{quantization}}, {{gpu}}"
    within = f"sum(increase(larder_fit_observations_total{{{HOST}}}[$__range]))"
    wrong = f"sum(increase(larder_fit_false_yes_total{{{HOST}}}[$__range]))"
    off = thresholds((None, ORANGE), (-0.2, GREEN), (0.1, ORANGE), (0.25, RED))
    errors = table(
        "Error by architecture, engine, quantization and card", "How much more than predicted engines take, as a share "
        "of the prediction; below zero they take less. New predictions are corrected by it.",
        [now(f"max by (architecture, engine, quantization, gpu) (larder_fit_error_ratio{{{which}}})")],
        {"architecture": "Architecture", "engine": "Engine", "quantization": "Quantization", "gpu": "Card",
         "Value #A": "Error"},
        [column("Engine", "none", width=110), column("Quantization", "none", width=110),
         column("Error", "percentunit", off, width=100, decimals=1)], join=None, sort="Error")
    return dashboard(
        "larder-fit", "larder / Fit quality",
        "How well larder predicts what a model takes of a GPU, against what engines on the hosts really hold.",
        [host(), labels("card", "Card", "label_values(larder_fit_error_ratio, gpu)")],
        [(4, [(4, stat("Predictions compared", "Within the time range, with what an engine takes.", within,
                       decimals=0)),
              (4, stat("Wrong yes", "Predictions within the time range whose margin did not cover what the engine "
                       "took.", wrong, steps=bad_from(1), decimals=0)),
              (4, stat("Share of wrong yes", "Of the predictions that were compared; unknown if none was.",
                       f"{wrong} / ({within} > 0)", "percentunit", bad_from(0.01, 0.05), decimals=1)),
              (4, stat("Largest error", "In either direction, as a share of the prediction.",
                       f"max(abs(larder_fit_error_ratio{{{which}}}))", "percentunit", bad_from(0.1, 0.25), decimals=1)),
              (4, stat("Refused for VRAM", "Jobs that failed because no variant fits, within the time range.",
                       f'sum(increase(larder_jobs_failed_total{{{HOST}, reason="insufficient_vram"}}[$__range]))',
                       decimals=0)),
              (4, stat("Other variants staged", "Downloads that staged another variant than was named, within the time "
                       "range.", f"sum(increase(larder_variant_fallbacks_total{{{HOST}}}[$__range]))", decimals=0))]),
         (9, [(14, errors),
              (10, bars("Variants staged in place of what was named", "Within the time range, by family.",
                        f"sum by (variant) (increase(larder_variant_fallbacks_total{{{HOST}}}[$__range])) > 0",
                        "{{variant}}", steps=thresholds((None, BLUE)), low=0, decimals=0))]),
         (9, [(12, lines("Error over time", "It should come closer to zero as larder learns.",
                         [query(f"max by (architecture, engine, quantization, gpu) (larder_fit_error_ratio{{{which}}})",
                                names)], "percentunit", low=None)),
              (12, lines("Predictions compared, and wrong ones", "In the time of a bar: a minute, or more where the range "
                         "is long.",
                         [query(events("larder_fit_observations_total"), "compared"),
                          query(events("larder_fit_false_yes_total"), "wrong yes")],
                         "none", bars=True, least="1m",
                         overrides=[of_query("A", colour={"mode": "fixed", "fixedColor": BLUE}),
                                    of_query("B", colour={"mode": "fixed", "fixedColor": RED})]))]),
         (8, [(24, lines("Free VRAM", "Share of each GPU's memory that anybody could have: what predictions are held "
                         "against.",
                         [query(f"{share} {CARD}", "{{instance}}, GPU {{index}}")], "percentunit", high=1))])],
        span="now-7d")


def main():
    wrong = []
    for name, content in (("fleet", fleet()), ("host", one_host()), ("jobs", overnight()), ("fit", fit())):
        path = FOLDER / f"{name}.json"
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            wrong.append(path.name)
    if wrong:
        sys.exit(f"not what dashboards.py writes: {', '.join(wrong)}; run it without --check")


main()
