#!/usr/bin/env python3
"""Writes TypeScript that holds only if the dashboards are what Grafana's own types say: `typed.py > dashboards.ts`, for tsc.

The dashboard's type leaves panels' options and field settings open, so each panel is also held against the types of its
kind.
"""

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "grafana" / "dashboards"
KINDS = {"stat": "Stat", "timeseries": "TimeSeries", "bargauge": "BarGauge", "table": "Table",
         "state-timeline": "StateTimeline"}
# Kinds whose own settings of a field are typed, too.
WITH_FIELDS = {"timeseries", "table", "state-timeline"}

# JSON has words where the types have enums.
PLAIN = """type Plain<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T
  : T extends (infer One)[] ? Plain<One>[] : T extends object ? { [Key in keyof T]: Plain<T[Key]> } : T;"""

print("import type { Dashboard, Panel } from '@grafana/schema';")
for kind, name in KINDS.items():
    fields = f", FieldConfig as {name}Fields" if kind in WITH_FIELDS else ""
    where = kind.replace("-", "")
    print(f"import type {{ Options as {name}Options{fields} }} from"
          f" '@grafana/schema/dist/esm/raw/composable/{where}/panelcfg/x/{name}PanelCfg_types.gen';")
print(PLAIN)
for path in sorted(FOLDER.glob("*.json")):
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    print(f"\nexport const {path.stem}: Plain<Dashboard> = {json.dumps(dashboard)};")
    for panel in dashboard["panels"]:
        name, where = KINDS[panel["type"]], f"{path.stem}_{panel['id']}"
        print(f"export const {where}: Plain<Panel> = {json.dumps(panel)};")
        print(f"export const {where}_options: Plain<Partial<{name}Options>> = {json.dumps(panel['options'])};")
        if panel["type"] in WITH_FIELDS:
            custom = panel["fieldConfig"]["defaults"]["custom"]
            print(f"export const {where}_fields: Plain<Partial<{name}Fields>> = {json.dumps(custom)};")
