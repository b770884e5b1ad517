# SPDX-License-Identifier: GPL-2.0-or-later
"""The dashboards as pictures, where there is no Grafana: python -m tests.grafana.preview FOLDER

A page a dashboard, laid out by its JSON and drawn from a real Prometheus that runs its queries;
Chromium makes pictures of it. Not Grafana's looks, but its queries, units, thresholds, value
mappings, colours and places, light and dark: what there is to see in them. It scrapes simulated
hosts, and this one where there is BPF.
"""

from __future__ import annotations

import html
import json
import math
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.chromium import chromium
from tests.grafana.colours import SERIES, THEMES, css, css_on, theme_style
from tests.grafana.simulated import HOSTS, served
from tests.grafana.test_dashboards import DASHBOARDS
from tests.grafana.test_queries import ALL, real_daemon, shipped_configuration
from tests.prometheus_server import prometheus

Series = dict[str, Any]
SIZES = {
    "bytes": ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")),
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")),
}
STYLE = """
body{margin:8px;background:var(--canvas);font:13px sans-serif;color:var(--ink);width:1264px}
main{display:grid;grid-template-columns:repeat(24,1fr);gap:6px}
section{background:var(--panel);border:1px solid var(--rule);padding:6px;overflow:hidden}
section{min-width:0}
svg text{fill:var(--ink)}
h2{grid-column:1/-1;font-size:14px;margin:8px 0 0}h3{font-size:12px;margin:0 0 4px}
.big{font-size:28px;font-weight:bold;text-align:center;padding-top:8px}
.said{font-weight:bold;padding:10px;text-align:center}
table{border-collapse:collapse;font-size:11px;width:100%}
td,th{border-top:1px solid var(--rule);padding:2px 6px;text-align:right}
td:first-child,th:first-child{text-align:left;white-space:nowrap}
.bar{display:grid;grid-template-columns:3fr 3fr auto;gap:8px;margin:3px 0}
.bar span:first-child{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.key{font-size:11px;margin-right:8px}pre{white-space:pre-wrap;font:11px sans-serif;margin:0}
"""


def written(value: float, unit: str, decimals: int | None) -> str:
    """As Grafana writes it, about; where it chooses the decimals, as many as are needed."""
    if unit == "percentunit":
        return f"{_number(100 * value, decimals)}%"
    if unit in SIZES:
        size, name = next((s for s in SIZES[unit] if abs(value) >= s[0]), SIZES[unit][-1])
        return f"{_number(value / size, decimals)} {name}"
    number = f"{value:,.{decimals}f}" if decimals is not None else f"{value:,.6g}"
    return f"{number}/s" if unit == "cps" else number


def _number(value: float, decimals: int | None) -> str:
    if decimals is None:
        decimals = 2 if value == 0 or abs(value) >= 0.1 else 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # no -0.00


class Asked:
    """A Prometheus, and what is chosen."""

    def __init__(self, url: str, chosen: Mapping[str, str], seconds: float) -> None:
        self._url, self._chosen, self._seconds = url, chosen, seconds

    def put_in(self, text: str) -> str:
        """With the variables' values."""
        text = text.replace("$__rate_interval", "8s")
        for name, value in self._chosen.items():
            text = text.replace(f"${name}", value)
        return text

    def series(self, expr: str, *, instant: bool) -> list[Series]:
        """Each with `values`; of an instant one."""
        now = time.time()
        more = {"time": now} if instant else {"start": now - self._seconds, "end": now, "step": 2}
        path = "query" if instant else "query_range"
        query = urllib.parse.urlencode({"query": self.put_in(expr), **more})
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{query}", timeout=30) as answer:
            found = json.load(answer)["data"]["result"]
        return [{**one, "values": one.get("values") or [one["value"]]} for one in found]


def coloured(value: float, steps: Sequence[Mapping[str, Any]]) -> str:
    """The colour of the last step that the value has reached."""
    colour = "green"
    for step in steps:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return css(colour)


def named(target: Mapping[str, Any], metric: Mapping[str, str]) -> str:
    """By its legend."""
    legend = str(target.get("legendFormat", ""))
    for label, value in metric.items():
        legend = legend.replace("{{" + label + "}}", value)
    return legend


def one_value(panel: Mapping[str, Any], asked: Asked) -> str:
    """stat, gauge: the newest value, by mapping or unit."""
    defaults = panel["fieldConfig"]["defaults"]
    found = asked.series(panel["targets"][0]["expr"], instant=False)
    if not found:
        return f'<div class="big">{defaults.get("noValue", "No data")}</div>'
    value = float(found[0]["values"][-1][1])
    for mapping in defaults.get("mappings", []):
        options = mapping["options"]
        if options["from"] <= value <= options["to"]:
            result = options["result"]
            colour = f"background:{css(result['color'])};color:{css_on(result['color'])}"
            return f'<div class="said" style="{colour}">{result["text"]}</div>'
    steps = defaults.get("thresholds", {}).get("steps", [])
    colour = coloured(value, steps) if steps else "var(--ink)"
    text = written(value, defaults["unit"], defaults.get("decimals"))
    return f'<div class="big" style="color:{colour}">{text}</div>'


def bars(panel: Mapping[str, Any], asked: Asked) -> str:
    """bargauge: in the query's order."""
    defaults, (target,) = panel["fieldConfig"]["defaults"], panel["targets"]
    found = [
        (named(target, one["metric"]), float(one["values"][0][1]))
        for one in asked.series(target["expr"], instant=True)
    ]
    most = max((value for _, value in found), default=0.0) or 1.0
    steps = defaults.get("thresholds", {}).get("steps", [])
    return "".join(
        f'<div class="bar"><span>{html.escape(name)}</span><span><div style="height:100%;'
        f'width:{100 * value / most:.0f}%;background:{coloured(value, steps)}"></div></span>'
        f"<span>{written(value, defaults['unit'], defaults.get('decimals'))}</span></div>"
        for name, value in found
    )


def curves(panel: Mapping[str, Any], asked: Asked, width: int, height: int) -> str:
    """timeseries: lines from the least to the most, with a scale of three."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    drawn = [
        (
            asked.put_in(named(target, one["metric"])),
            [(float(t), float(v)) for t, v in one["values"]],
        )
        for target in panel["targets"]
        for one in asked.series(target["expr"], instant=False)
    ]
    points = [point for _, line in drawn for point in line]
    if not points:
        return '<div class="big">No data</div>'
    begin, end = min(t for t, _ in points), max(t for t, _ in points)
    low, high = min(0.0, *(v for _, v in points)), max(v for _, v in points) or 1.0

    def at(t: float, v: float) -> str:
        x = 70 + (width - 80) * (t - begin) / (end - begin or 1)
        return f"{x:.1f},{5 + (height - 20) * (high - v) / (high - low or 1):.1f}"

    svg = [f'<svg width="{width}" height="{height}" font-size="10">']
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        x, y = at(begin, value).split(",")
        svg.append(f'<path d="M{x} {y}H{width}" stroke="var(--rule)"/>')
        svg.append(
            f'<text x="66" y="{float(y) + 3}" text-anchor="end">{written(value, unit, None)}</text>'
        )
    for number, (_, line) in enumerate(drawn):
        path = " ".join(at(t, v) for t, v in line)
        colour = css(SERIES[number % len(SERIES)])
        svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    keys = "".join(
        f'<span class="key"><b style="color:{css(SERIES[n % len(SERIES)])}">&#9632;</b>'
        f" {html.escape(name)}</span>"
        for n, (name, _) in enumerate(drawn)
    )
    return "".join([*svg, "</svg>", f"<div>{keys}</div>"])


def cells(panel: Mapping[str, Any], asked: Asked, width: int, height: int) -> str:
    """heatmap: a row a series, the lowest at the bottom."""
    (target,) = panel["targets"]
    found = sorted(
        asked.series(target["expr"], instant=False), key=lambda s: int(s["metric"]["pages"])
    )
    most = max(float(v) for one in found for _, v in one["values"]) or 1.0
    svg = [f'<svg width="{width}" height="{height}" font-size="10">']
    step = (height - 10) / len(found)
    for number, one in enumerate(found):
        y = height - 5 - (number + 1) * step
        svg.append(f'<text x="2" y="{y + step / 2}">{named(target, one["metric"])}</text>')
        wide = (width - 30) / len(one["values"])
        for n, (_, value) in enumerate(one["values"]):
            shade = (float(value) / most) ** 0.5
            svg.append(
                f'<rect x="{25 + n * wide:.1f}" y="{y:.1f}" width="{wide + 0.5:.1f}"'
                f' height="{step - 1:.1f}" fill="#d94801" fill-opacity="{shade:.2f}"/>'
            )
    return "".join([*svg, "</svg>"])


def table(panel: Mapping[str, Any], asked: Asked) -> str:
    """Joined by labels, as `merge` does; titles, order and units by `organize` and overrides."""
    organize = panel["transformations"][-1]["options"]
    properties = {
        one["matcher"]["options"]: {p["id"]: p["value"] for p in one["properties"]}
        for one in panel["fieldConfig"]["overrides"]
    }
    names, order = organize["renameByName"], organize["indexByName"]
    joined: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
    for target in panel["targets"]:
        for one in asked.series(target["expr"], instant=True):
            key = tuple(sorted(one["metric"].items()))
            joined.setdefault(key, {})[f"Value #{target['refId']}"] = float(one["values"][0][1])
    fields = sorted(names, key=lambda field: order[field])
    by = next(f for f in fields if names[f] == panel["options"]["sortBy"][0]["displayName"])
    rows = []
    for key, values in sorted(joined.items(), key=lambda row: -row[1].get(by, 0.0)):
        line = []
        for field in fields:
            had = properties.get(names[field], {})
            if field in values:
                text = written(values[field], had.get("unit", ""), had.get("decimals"))
                steps = had.get("thresholds", {}).get("steps", [])
                style = f' style="color:{coloured(values[field], steps)}"' if steps else ""
                line.append(f"<td{style}>{text}</td>")
            else:
                line.append(f"<td>{html.escape(dict(key).get(field, ''))}</td>")
        rows.append(f"<tr>{''.join(line)}</tr>")
    heads = "".join(f"<th>{names[field]}</th>" for field in fields)
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


def drawn(panel: Mapping[str, Any], asked: Asked) -> str:
    """Its inside."""
    place = panel["gridPos"]
    width, height = int(place["w"] * 52.5 - 20), place["h"] * 38 - 70
    match panel["type"]:
        case "stat" | "gauge":
            return one_value(panel, asked)
        case "bargauge":
            return bars(panel, asked)
        case "timeseries":
            return curves(panel, asked, width, height)
        case "heatmap":
            return cells(panel, asked, width, height)
        case "table":
            return table(panel, asked)
        case "text":
            return f"<pre>{html.escape(panel['options']['content'])}</pre>"
    raise AssertionError(panel["type"])


def page(dashboard: Mapping[str, Any], asked: Asked) -> str:
    """A dashboard as HTML."""
    body = []
    for panel in dashboard["panels"]:
        title, place = html.escape(asked.put_in(panel["title"])), panel["gridPos"]
        if panel["type"] == "row":
            body.append(f"<h2>{title}</h2>")
            continue
        style = f"grid-column:span {place['w']};min-height:{place['h'] * 38 - 20}px"
        body.append(f'<section style="{style}"><h3>{title}</h3>{drawn(panel, asked)}</section>')
    return (
        f'<!doctype html><meta charset="utf-8"><title>{dashboard["title"]}</title>'
        f"<style>{theme_style()}{STYLE}</style><h1>{dashboard['title']}</h1><main>{''.join(body)}</main>"
    )


def main(folder: Path, seconds: float = 100.0) -> None:
    """Let hosts run for so long, then draw all dashboards."""
    folder.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        served(HOSTS) as simulated,
        real_daemon(Path(scratch)) as daemon,
    ):
        hosts = dict(simulated)
        if daemon is not None:
            hosts["real"] = daemon.url.removeprefix("http://")
        config = shipped_configuration(Path(scratch), list(hosts.values()))
        with prometheus(Path(scratch), config) as server:
            time.sleep(seconds)
            one = hosts.get("real", hosts["plain"])
            for name, dashboard in DASHBOARDS.items():
                many = name in ("fleet", "policies")
                chosen = {
                    "job": ALL if many else "dynstack",
                    "instance": ALL if many else one,
                    "policy": ALL if name == "policies" else "rfc-v1",
                }
                asked = Asked(server.url, chosen, seconds)
                if name == "cgroup":
                    held = asked.series(
                        "dynstack_cgroup_stack_bytes" + '{instance="$instance"}', instant=True
                    )
                    largest = max(held, key=lambda s: float(s["values"][0][1]))
                    chosen["cgroup"] = largest["metric"]["cgroup"]
                (folder / f"{name}.html").write_text(page(dashboard, asked))
    with chromium() as browser:
        for name in DASHBOARDS:
            for theme in THEMES:
                shown = browser.new_page(
                    viewport={"width": 1280, "height": 900},
                    color_scheme=theme,  # type: ignore[arg-type]
                )
                shown.goto((folder / f"{name}.html").resolve().as_uri())
                shown.screenshot(path=folder / f"{name}-{theme}.png", full_page=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
