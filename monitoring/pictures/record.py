#!/usr/bin/env python3
"""Records what a Prometheus answers to every query of the dashboards, so that pictures can be drawn without it.

    record.py URL MINUTES [END] > answers.json

The MINUTES before END (such as 2026-06-01T02:30:00Z; now without one) are asked for in 300 points. Variables have their defaults: all hosts, all GPUs, the first host where only
one can be chosen. As Grafana does: a query about time is asked over the range, one about the present at its end.
"""

import json
import sys
import time
import urllib.parse
import urllib.request
from datetime import datetime
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "grafana" / "dashboards"
POINTS, SCRAPED = 300, 15


def ask(url, path, **form):
    body = urllib.parse.urlencode(form).encode()
    with urllib.request.urlopen(f"{url}/api/v1/{path}", body, timeout=60) as answer:
        return json.load(answer)["data"]


def substituted(expr, variables):
    for name, value in sorted(variables.items(), key=lambda one: -len(one[0])):
        expr = expr.replace(f"${name}", value)
    return expr


def chosen(dashboard, hosts):
    variables = {}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "custom":
            variables[variable["name"]] = variable["current"]["value"]
        elif variable["type"] == "query":
            variables[variable["name"]] = ".*" if variable["multi"] or not hosts else hosts[0]
    return variables


def main():
    url, minutes = sys.argv[1].rstrip("/"), float(sys.argv[2])
    end = time.time()
    if len(sys.argv) > 3:
        end = datetime.fromisoformat(sys.argv[3].replace("Z", "+00:00")).timestamp()
    start, usual = end - 60 * minutes, max(60 * minutes / POINTS, 1)
    found = ask(url, "query", query="larder_build_info", time=end)["result"]
    hosts = sorted({one["metric"]["instance"] for one in found})
    dashboards = {}
    for path in sorted(FOLDER.glob("*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        variables = chosen(dashboard, hosts)
        answers = {}
        for panel in dashboard["panels"]:
            # "1m": a panel may ask for fewer points.
            step = max(int(usual), 60 * int(panel.get("interval", "0m").removesuffix("m")))
            times = {"__rate_interval": f"{max(step + SCRAPED, 4 * SCRAPED)}s", "__range": f"{int(minutes)}m",
                     "__interval": f"{step}s"}
            for target in panel["targets"]:
                expr = substituted(target["expr"], {**variables, **times})
                if target["instant"]:
                    answer = ask(url, "query", query=expr, time=end)["result"]
                else:
                    answer = ask(url, "query_range", query=expr, start=start, end=end, step=step)["result"]
                answers[f"{panel['id']}{target['refId']}"] = answer
        dashboards[path.stem] = {"dashboard": dashboard, "variables": variables, "answers": answers}
    json.dump({"start": start, "end": end, "dashboards": dashboards}, sys.stdout)


main()
