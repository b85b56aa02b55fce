"""The parts that larder's dashboards are made of: variables, queries, panels, colours.

Everything that all panels have in common is said here once, so that dashboards.py only says what differs: the question,
its unit, and from where on an answer is bad. The result is Grafana's JSON model; monitoring/check.sh holds it against
@grafana/schema.
"""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "text"


def thresholds(*steps):
    """Steps of (from which value on, colour); the first begins below everything."""
    values = [None] + [value for value, _ in steps[1:]]
    return {"mode": "absolute", "steps": [{"value": v, "color": c} for v, (_, c) in zip(values, steps)]}


PLAIN = thresholds((None, GREY))


def bad_from(bad, worse=None):
    """More is worse: green, then orange and red; only red if there is one bound."""
    if worse is None:
        return thresholds((None, GREEN), (bad, RED))
    return thresholds((None, GREEN), (bad, ORANGE), (worse, RED))


def bad_below(worse, bad=None):
    """Less is worse: red, then orange and green."""
    if bad is None:
        return thresholds((None, RED), (worse, GREEN))
    return thresholds((None, RED), (worse, ORANGE), (bad, GREEN))


def words(**of):
    """Words and colours in place of numbers: words(v1=("healthy", GREEN))."""
    options = {n[1:]: {"text": text, "color": colour, "index": i} for i, (n, (text, colour)) in enumerate(of.items())}
    return [{"type": "value", "options": options}]


HEALTH = words(v0=("degraded", RED), v1=("healthy", GREEN))
STATES = words(v0=("bad", RED), v1=("good", GREEN))
REACHED = words(v0=("away", RED), v1=("reached", GREEN))


def query(expr, legend="", ref="A"):
    """What a panel that shows time asks."""
    return {"datasource": SOURCE, "refId": ref, "expr": expr, "legendFormat": legend, "range": True, "instant": False}


def now(expr, legend="", ref="A"):
    """What a panel that shows the present asks."""
    return {**query(expr, legend, ref), "range": False, "instant": True}


def lettered(queries):
    return [{**one, "refId": chr(ord("A") + n)} for n, one in enumerate(queries)]


def panel(kind, title, description, targets, unit, *, options, defaults, overrides=(), transformations=()):
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "targets": lettered(targets),
        "fieldConfig": {"defaults": {"unit": unit, **defaults}, "overrides": list(overrides)},
        "options": options,
        "transformations": list(transformations),
    }


def stat(title, description, expr, unit="none", steps=PLAIN, mappings=(), decimals=None, nothing="unknown"):
    """One number; its colour says whether it is good. `nothing` is what no answer means."""
    defaults = {"thresholds": steps, "mappings": list(mappings), "color": {"mode": "thresholds"}, "noValue": nothing}
    if decimals is not None:
        defaults["decimals"] = decimals
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    options = {"reduceOptions": reduce, "colorMode": "value", "graphMode": "none", "justifyMode": "auto",
               "textMode": "value", "orientation": "auto", "wideLayout": True}
    return panel("stat", title, description, [now(expr)], unit, options=options, defaults=defaults)


def lines(title, description, targets, unit, *, stacked=False, bars=False, low=0, high=None, overrides=(), least=None,
          colour="palette-classic"):
    """Values over time. `least` is the shortest time between two points, as in "1m"."""
    # Areas have no outline: that of a series which is zero would lie on the one below it, in the wrong colour.
    areas = stacked or bars
    custom = {"drawStyle": "bars" if bars else "line", "lineWidth": 0 if areas else 1, "fillOpacity": 60 if areas else 8,
              "showPoints": "never", "spanNulls": False, "lineInterpolation": "linear",
              "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
              "thresholdsStyle": {"mode": "off"}}
    defaults = {"custom": custom, "thresholds": PLAIN, "mappings": [], "color": {"mode": colour}}
    if low is not None:
        defaults["min"] = low
    if high is not None:
        defaults["max"] = high
    options = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True,
                          "calcs": []},
               "tooltip": {"mode": "multi", "sort": "desc"}}
    shown = panel("timeseries", title, description, targets, unit, options=options, defaults=defaults,
                  overrides=overrides)
    return {**shown, "interval": least} if least else shown


def bars(title, description, expr, legend, unit="none", steps=PLAIN, low=None, decimals=None):
    """The present, side by side."""
    defaults = {"thresholds": steps, "mappings": [], "color": {"mode": "thresholds"}}
    for key, value in (("min", low), ("decimals", decimals)):
        if value is not None:
            defaults[key] = value
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    options = {"reduceOptions": reduce, "orientation": "horizontal", "displayMode": "basic", "valueMode": "color",
               "namePlacement": "auto", "showUnfilled": True, "sizing": "manual",
               "minVizHeight": 16, "minVizWidth": 8, "maxVizHeight": 40}
    return panel("bargauge", title, description, [now(expr, legend)], unit, options=options, defaults=defaults)


def timeline(title, description, targets, mappings, steps):
    """States over time."""
    defaults = {"custom": {"fillOpacity": 75, "lineWidth": 0}, "thresholds": steps,
                "mappings": list(mappings), "color": {"mode": "thresholds"}}
    options = {"mergeValues": True, "showValue": "never", "alignValue": "left", "rowHeight": 0.8,
               "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
               "tooltip": {"mode": "single", "sort": "none"}}
    return panel("state-timeline", title, description, targets, "none", options=options, defaults=defaults)


def column(name, unit, steps=None, mappings=(), width=None, decimals=None):
    """How a column of a table is shown."""
    properties = [{"id": "unit", "value": unit}]
    if steps:
        properties.append({"id": "thresholds", "value": steps})
    if mappings:
        properties.append({"id": "mappings", "value": list(mappings)})
    if steps or mappings:
        properties.append({"id": "custom.cellOptions", "value": {"type": "color-text"}})
    if decimals is not None:
        properties.append({"id": "decimals", "value": decimals})
    if width:
        properties.append({"id": "custom.width", "value": width})
    return {"matcher": {"id": "byName", "options": name}, "properties": properties}


def table(title, description, targets, names, columns, *, join, hide=(), sort=None):
    """Rows of labels and values; `names` renames labels and the values of the queries ("Value #A")."""
    targets = [{**one, "format": "table", "legendFormat": ""} for one in targets]
    if len(targets) == 1:
        names = {("Value" if name == "Value #A" else name): shown for name, shown in names.items()}
        hide = ["Value" if name == "Value #A" else name for name in hide]
    hidden = {name: True for name in ["Time", *[f"Time {n}" for n in range(1, len(targets) + 1)], *hide]}
    joining = {"merge": [{"id": "merge", "options": {}}], None: []}.get(
        join, [{"id": "joinByField", "options": {"byField": join, "mode": "outer"}}])
    shape = {"id": "organize", "options": {"excludeByName": hidden, "renameByName": names,
                                           "indexByName": {name: n for n, name in enumerate(names)}}}
    targets = [{**one, "range": False, "instant": True} for one in targets]
    defaults = {"custom": {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False, "filterable": False},
                "thresholds": PLAIN, "mappings": [], "color": {"mode": "thresholds"}}
    options = {"showHeader": True, "cellHeight": "sm",
               "sortBy": [{"displayName": sort, "desc": True}] if sort else []}
    return panel("table", title, description, targets, "none", options=options, defaults=defaults, overrides=columns,
                 transformations=[*joining, shape])


def of_query(ref, **properties):
    """How the series of one query differ from the others of the panel."""
    named = {"unit": "unit", "axis": "custom.axisPlacement", "dash": "custom.lineStyle", "fill": "custom.fillOpacity",
             "stacking": "custom.stacking", "colour": "color", "low": "min", "high": "max", "width": "custom.lineWidth",
             "hide": "custom.hideFrom"}
    values = [{"id": named[name], "value": value} for name, value in properties.items()]
    return {"matcher": {"id": "byFrameRefID", "options": ref}, "properties": values}


def dashed(ref, colour):
    """A bound: a dashed line over everything else."""
    return of_query(ref, dash={"fill": "dash", "dash": [8, 6]}, width=1, fill=0, stacking={"mode": "none", "group": "A"},
                    colour={"mode": "fixed", "fixedColor": colour})


def datasource():
    return {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus",
            "refresh": 1, "multi": False, "includeAll": False, "options": [], "hide": 0, "regex": ""}


def labels(name, label, expr, several=True, description=""):
    """A variable of what a label says."""
    variable = {"type": "query", "name": name, "label": label, "description": description, "datasource": SOURCE,
                "query": {"qryType": 1, "query": expr, "refId": name}, "refresh": 2, "sort": 1,
                "multi": several, "includeAll": several, "options": [], "hide": 0, "regex": ""}
    if several:
        variable["allValue"] = ".*"
        variable["current"] = {"selected": True, "text": ["All"], "value": ["$__all"]}
    return variable


def choice(name, label, description, **options):
    """A variable with fixed values; the first is the default."""
    shown = [{"selected": n == 0, "text": text.replace("_", " "), "value": value}
             for n, (text, value) in enumerate(options.items())]
    return {"type": "custom", "name": name, "label": label, "description": description, "multi": False,
            "includeAll": False, "hide": 0, "options": shown, "current": shown[0],
            "query": ", ".join(f"{one['text']} : {one['value']}" for one in shown)}


def placed(rows):
    """Gives every panel its place: rows of (height, [(width, panel), ...])."""
    panels, y = [], 0
    for height, row in rows:
        x = 0
        for width, one in row:
            panels.append({"id": len(panels) + 1, **one, "gridPos": {"h": height, "w": width, "x": x, "y": y}})
            x += width
        assert x == 24, f"the row at {y} is {x} wide"
        y += height
    return panels


def dashboard(uid, title, description, variables, rows, span="now-6h"):
    links = [{"type": "dashboards", "title": "larder", "tags": ["larder"], "asDropdown": True, "includeVars": True,
              "keepTime": True, "targetBlank": False, "icon": "external link", "tooltip": "", "url": ""}]
    return {"uid": uid, "title": title, "description": description, "tags": ["larder"], "schemaVersion": 41,
            "version": 1, "editable": True, "graphTooltip": 1, "refresh": "30s", "timezone": "browser",
            "time": {"from": span, "to": "now"}, "links": links, "annotations": {"list": []},
            "templating": {"list": [datasource(), *variables]}, "panels": placed(rows)}
