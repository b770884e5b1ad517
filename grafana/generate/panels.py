# SPDX-License-Identifier: GPL-2.0-or-later
"""Panels and variables as this project uses them: a unit and a description are never optional.

What only a model says has the word `modelled` in its title or in its series' names.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    gauge,
    heatmap,
    prometheus,
    stat,
    table,
    text,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DashboardRangeMapOptions,
    DataTransformerConfig,
    DynamicConfigValue,
    Panel,
    RangeMap,
    Threshold,
    ThresholdsMode,
    ValueMappingResult,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.text import TextMode

with warnings.catch_warnings():
    # The SDK prefers the second schema, which Grafana before 12 and other programs can't read.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import dashboard

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
ALL = VariableOption(selected=True, text="All", value="$__all")
# Grafana's grid
FULL_WIDTH, HALF, THIRD, QUARTER, SIXTH = 24, 12, 8, 6, 4

RATIO = "percentunit"
BYTES = "bytes"
SECONDS = "s"
COUNT = "locale"  # 9,878: the RFC counts stacks to the last one
PER_SECOND = "cps"


Steps = Sequence[tuple[float | None, str]]  # from each value on, that colour

# Of figures, to be read on Grafana's light and dark panels: its plain green and yellow are too
# pale for the one, all darker reds for the other.
GOOD, DOUBTFUL, BAD = "semi-dark-green", "dark-orange", "red"
# Of panels on which Grafana writes in white, but on yellow: there in black. None of its greens is
# dark enough for that in both themes.
GOOD_PANEL, DOUBTFUL_PANEL, BAD_PANEL = "#2c7a23", "yellow", "dark-red"

# What rules a policy out, and what calls for a second look.
NONE_TOO_DEEP: Steps = ((None, GOOD), (1, BAD))
DEEP: Steps = ((None, GOOD), (0.75, DOUBTFUL), (0.9, BAD))
COVERED: Steps = ((None, BAD), (0.9, DOUBTFUL), (0.99, GOOD))
COSTLY: Steps = ((None, GOOD), (0.001, DOUBTFUL), (0.01, BAD))
RESERVES_LEFT: Steps = ((None, BAD), (10, DOUBTFUL), (100, GOOD))


@dataclass(frozen=True)
class Verdict:
    """What to conclude from a value below `below`, None for all others."""

    below: float | None
    sentence: str
    color: str


# Of all memory, the reserve paid.
HOW_MUCH = (
    Verdict(0.0, "It would cost memory: the reserve eats more than is saved.", BAD_PANEL),
    Verdict(0.001, "Hardly worth it: under 0.1% of all memory.", DOUBTFUL_PANEL),
    Verdict(0.01, "Worth it where memory is short: 0.1 to 1% of all memory.", GOOD_PANEL),
    Verdict(None, "Worth it: over 1% of all memory.", GOOD_PANEL),
)
# Of all CPU time, on balance.
WHAT_PRICE = (
    Verdict(0.0, "None: cheaper forks save more CPU time than faults take.", GOOD_PANEL),
    Verdict(0.0001, "Nobody would notice: under 0.01% of all CPU time.", GOOD_PANEL),
    Verdict(0.001, "Small: under 0.1% of all CPU time.", GOOD_PANEL),
    Verdict(0.01, "To be weighed: 0.1 to 1% of all CPU time.", DOUBTFUL_PANEL),
    Verdict(None, "Expensive: over 1% of all CPU time.", BAD_PANEL),
)
# Of danger(): 4 for tasks too deep, 2 for a stack almost full now, 1 for memory that is short.
HOW_SAFE = (
    Verdict(1, "Nothing speaks against it: no task is too deep, memory is free.", GOOD_PANEL),
    Verdict(2, "Free memory is short: refills would compete for the last pages.", DOUBTFUL_PANEL),
    Verdict(4, "A task has used over 90% of its stack, under today's kernel.", BAD_PANEL),
    Verdict(None, "Rule it out: living tasks are deeper than it allows.", BAD_PANEL),
)


def danger(too_deep: str, deepest: str, in_reserves: str) -> str:
    """PromQL, for HOW_SAFE; policies without a reserve have no `in_reserves`."""
    short = f"(({in_reserves}) < bool 10 or 0 * ({too_deep}))"
    return f"4 * (({too_deep}) > bool 0) + 2 * (({deepest}) > bool 0.9) + {short}"


BEYOND = 1e9  # any value: to a range's end that is null Grafana's versions give other meanings


class _AnyPanel(Protocol):
    """What all of the SDK's panel builders can do."""

    def title(self, title: str) -> Self: ...
    def description(self, description: str) -> Self: ...
    def datasource(self, datasource: DataSourceRef) -> Self: ...
    def unit(self, unit: str) -> Self: ...
    def height(self, h: int) -> Self: ...
    def span(self, w: int) -> Self: ...
    def with_target(self, target: Builder[Dataquery]) -> Self: ...


P = TypeVar("P", bound=_AnyPanel)


@dataclass(frozen=True)
class Query:
    """PromQL and how its series are called, `{{label}}` in braces."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table: a query of its own, joined to the others by their labels."""

    title: str
    expr: str
    unit: str = COUNT
    decimals: int | None = None
    steps: Steps = ()


@dataclass(frozen=True)
class Text:
    """What is said of a panel: its title, and one line below the `i` in its corner."""

    title: str
    description: str


def _described(panel: P, text: Text, unit: str, width: int, height: int) -> P:
    panel.title(text.title).description(text.description).datasource(DATASOURCE)
    panel.unit(unit).span(width).height(height)
    return panel


def _asked(panel: P, queries: Sequence[Query], *, instant: bool) -> P:
    for letter, query in zip("ABCDEFGHIJ", queries, strict=False):
        target = _target(letter, query.expr).legend_format(query.legend)
        panel.with_target(target.instant() if instant else target.range())
    return panel


def _target(letter: str, expr: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(letter).datasource(DATASOURCE).expr(expr)


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields("")


def _steps(*steps: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    config = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE)
    return config.steps([Threshold(value, color) for value, color in steps])


def number(
    text: Text,
    query: Query,
    unit: str,
    *,
    width: int = QUARTER,
    decimals: int | None = None,
    steps: Steps = (),
) -> stat.Panel:
    """One figure, and its course behind it; coloured from each of the steps on, if there are."""
    panel = stat.Panel().graph_mode(models.BigValueGraphMode.AREA).reduce_options(_last())
    panel.color_mode(models.BigValueColorMode.VALUE if steps else models.BigValueColorMode.NONE)
    if steps:
        panel.thresholds(_steps(*steps))
    if decimals is not None:
        panel.decimals(decimals)
    return _asked(_described(panel, text, unit, width, 4), [query], instant=False)


def verdict(text: Text, query: Query, verdicts: Sequence[Verdict], unit: str = RATIO) -> stat.Panel:
    """A sentence that says what to conclude from a figure, in its colour."""
    panel = stat.Panel().graph_mode(models.BigValueGraphMode.NONE).reduce_options(_last())
    panel.color_mode(models.BigValueColorMode.BACKGROUND_SOLID).no_value("Not known yet.")
    panel.text(common.VizTextDisplayOptions().value_size(16))
    least = -BEYOND
    ranges = []
    for at, one in enumerate(verdicts):
        result = ValueMappingResult(text=one.sentence, color=one.color, index=at)
        most = BEYOND if one.below is None else one.below
        ranges.append(RangeMap(DashboardRangeMapOptions(from_val=least, to=most, result=result)))
        least = most
    panel.mappings(list(reversed(ranges)))  # at a bound, of both, the first
    return _asked(_described(panel, text, unit, THIRD, 3), [query], instant=False)


def dial(text: Text, query: Query, steps: Steps, *, width: int = QUARTER) -> gauge.Panel:
    """A ratio from 0 to 1, coloured from each of the steps on."""
    panel = gauge.Panel().min(0).max(1).decimals(1).reduce_options(_last())
    panel.thresholds(_steps(*steps))
    return _asked(_described(panel, text, RATIO, width, 4), [query], instant=False)


def prose(title: str, markdown: str) -> text.Panel:
    """Something to read."""
    panel = text.Panel().title(title).mode(TextMode.MARKDOWN).content(markdown)
    lines_ = 1 + markdown.count("\n")
    return panel.span(FULL_WIDTH).height(3 + lines_ // 2)


def lines(
    text: Text, queries: Sequence[Query], unit: str, *, width: int = HALF, stacked: bool = False
) -> timeseries.Panel:
    """Series over time."""
    panel = timeseries.Panel().line_width(1).show_points(models.VisibilityMode.NEVER)
    panel.fill_opacity(30 if stacked else 5)
    if stacked:
        panel.stacking(common.StackingConfig().mode(models.StackingMode.NORMAL))
    legend = common.VizLegendOptions().show_legend(True)
    legend.display_mode(models.LegendDisplayMode.LIST).placement(models.LegendPlacement.BOTTOM)
    panel.legend(legend)
    tooltip = common.VizTooltipOptions().mode(models.TooltipDisplayMode.MULTI)
    panel.tooltip(tooltip.sort(models.SortOrder.DESCENDING))
    return _asked(_described(panel, text, unit, width, 8), queries, instant=False)


def depths(text: Text, query: Query, rows: str, *, width: int = HALF) -> heatmap.Panel:
    """A row a series, from the lowest number among their names up; `rows` names that axis."""
    panel = heatmap.Panel().calculate(False)
    panel.rows_frame(heatmap.RowsHeatmapOptions().layout(models.HeatmapCellLayout.UNKNOWN))
    panel.y_axis(heatmap.YAxisConfig().axis_label(rows).unit("none").decimals(0))
    color = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges")
    # most tasks are in one row: without the exponent the others would look empty
    panel.color(color.exponent(0.5).scale(HeatmapColorScale.EXPONENTIAL).steps(64))
    panel.cell_values(heatmap.CellValues().unit(COUNT).decimals(0))
    panel.tooltip(heatmap.HeatmapTooltip().mode(models.TooltipDisplayMode.SINGLE))
    return _asked(_described(panel, text, COUNT, width, 8), [query], instant=False)


def ranking(
    text: Text,
    query: Query,
    unit: str,
    *,
    width: int = THIRD,
    steps: Steps = (),
    link: str | None = None,
) -> bargauge.Panel:
    """A bar a series, in the query's own order; a click on one follows `link`."""
    panel = bargauge.Panel().orientation(models.VizOrientation.HORIZONTAL).min(0)
    panel.display_mode(models.BarGaugeDisplayMode.BASIC).reduce_options(_last())
    if steps:
        panel.thresholds(_steps(*steps))
    if link is not None:
        panel.data_links([dashboard.DashboardLink("Show this host").url(link)])
    return _asked(_described(panel, text, unit, width, 8), [query], instant=True)


def rows(
    text: Text,
    labels: dict[str, str],
    columns: Sequence[Column],
    *,
    sort: str,
    height: int = 8,
    links: dict[str, str] | None = None,
) -> table.Panel:
    """A table: a row for each set of labels, which are columns too, under the titles given.

    Largest of `sort` first; `links` are URLs by column title.
    """
    panel = _described(table.Panel(), text, COUNT, FULL_WIDTH, height)
    order = {"Time": 0} | {label: n for n, label in enumerate(labels, start=1)}
    names = dict(labels)
    for letter, column in zip("ABCDEFGHIJ", columns, strict=False):
        panel.with_target(_target(letter, column.expr).format(PromQueryFormat.TABLE).instant())
        names[f"Value #{letter}"] = column.title
        order[f"Value #{letter}"] = len(order)
        properties: list[DynamicConfigValue] = [DynamicConfigValue("unit", column.unit)]
        if column.decimals is not None:
            properties.append(DynamicConfigValue("decimals", column.decimals))
        if column.steps:
            steps = [{"value": value, "color": color} for value, color in column.steps]
            thresholds = {"mode": "absolute", "steps": steps}
            properties.append(DynamicConfigValue("thresholds", thresholds))
            properties.append(DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
        panel.override_by_name(column.title, properties)
    for title, url in (links or {}).items():
        link = [{"title": "Show", "url": url}]
        panel.override_by_name(title, [DynamicConfigValue("links", link)])
    panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    organize: dict[str, Any] = {
        "excludeByName": {"Time": True},
        "indexByName": order,
        "renameByName": names,
    }
    panel.with_transformation(DataTransformerConfig(id_val="organize", options=organize))
    return panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(True)])


def datasource_variable() -> dashboard.DatasourceVariable:
    """Which Prometheus."""
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def label_variable(
    label: str, title: str, metric: str, *, many: bool, first: str | None = None
) -> dashboard.QueryVariable:
    """A choice among the values that `label` has on `metric`; of several where `many`."""
    variable = dashboard.QueryVariable(label).label(title).datasource(DATASOURCE)
    query = f"label_values({metric}, {label})"
    variable.query({"qryType": 1, "query": query, "refId": f"variable-{label}"}).definition(query)
    variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    if many:
        variable.multi(True).include_all(True).all_value(".+").current(ALL)
    elif first is not None:
        variable.current(VariableOption(selected=True, text=first, value=first))
    return variable


def events(hosts: str) -> Sequence[Builder[AnnotationQuery]]:
    """What may explain a step in a plot: reboots, other kernels. `hosts` selects series."""
    info = "topk by (job, instance) (1, dynstack_host_info)"
    booted = (
        f"1000 * dynstack_host_boot_time_seconds{hosts}"
        f" * on (job, instance) group_left (kernel_release) {info}"
    )
    # A release that its host had not in the hour before, though it was there.
    before = "last_over_time(dynstack_host_info[1h] offset 2m)"
    other = (
        f"(dynstack_host_info{hosts} unless on (job, instance, kernel_release) {before})"
        f" and on (job, instance) {before}"
    )
    return [
        _annotation("Reboots", booted, "orange").use_value_for_time(True),
        _annotation("Kernel changes", other, "purple"),
    ]


def _annotation(name: str, expr: str, color: str) -> dashboard.AnnotationQuery:
    query = dashboard.AnnotationQuery().name(name).datasource(DATASOURCE).enable(True)
    query.expr(expr).icon_color(color).step("60s")
    return query.title_format(name.removesuffix("s")).text_format(
        "{{instance}}: Linux {{kernel_release}}"
    )


def assembled(
    uid: str,
    title: str,
    description: str,
    span: str,
    variables: Sequence[Builder[VariableModel]],
    sections: dict[str, Sequence[Builder[Panel]]],
    annotations: Sequence[Builder[AnnotationQuery]] = (),
) -> Dashboard:
    """A dashboard: sections of panels, which flow from left to right."""
    builder = dashboard.Dashboard(title).uid(uid).description(description).tags(["dynstack"])
    builder.time(f"now-{span}", "now").refresh("1m").timezone("browser")
    builder.tooltip(DashboardCursorSync.CROSSHAIR)
    link = dashboard.DashboardLink("Dynamic kernel stacks").type(DashboardLinkType.DASHBOARDS)
    builder.link(link.tags(["dynstack"]).include_vars(True).keep_time(True))
    for variable in variables:
        builder.with_variable(variable)
    for annotation in annotations:
        builder.annotation(annotation)
    for name, panels in sections.items():
        builder.with_row(dashboard.Row(name))
        for panel in panels:
            builder.with_panel(panel)
    result = builder.build()
    for number_, panel_ in enumerate(result.panels or [], start=1):
        panel_.id_val = number_
    return result
