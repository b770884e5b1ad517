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
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataTransformerConfig,
    DynamicConfigValue,
    Panel,
    Threshold,
    ThresholdsMode,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

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
    steps: Sequence[tuple[float | None, str]] = (),
) -> stat.Panel:
    """One figure, and its course behind it; coloured from each of the steps on, if there are."""
    panel = stat.Panel().graph_mode(models.BigValueGraphMode.AREA).reduce_options(_last())
    panel.color_mode(models.BigValueColorMode.VALUE if steps else models.BigValueColorMode.NONE)
    if steps:
        panel.thresholds(_steps(*steps))
    if decimals is not None:
        panel.decimals(decimals)
    return _asked(_described(panel, text, unit, width, 4), [query], instant=False)


def dial(text: Text, query: Query, *steps: tuple[float | None, str]) -> gauge.Panel:
    """A ratio from 0 to 1, coloured from each of the steps on."""
    panel = gauge.Panel().min(0).max(1).decimals(1).reduce_options(_last())
    panel.thresholds(_steps(*steps))
    return _asked(_described(panel, text, RATIO, QUARTER, 4), [query], instant=False)


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


def ranking(text: Text, query: Query, unit: str, *, width: int = THIRD) -> bargauge.Panel:
    """A bar a series, in the query's own order."""
    panel = bargauge.Panel().orientation(models.VizOrientation.HORIZONTAL).min(0)
    panel.display_mode(models.BarGaugeDisplayMode.BASIC).reduce_options(_last())
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


def assembled(
    uid: str,
    title: str,
    description: str,
    span: str,
    variables: Sequence[Builder[VariableModel]],
    sections: dict[str, Sequence[Builder[Panel]]],
) -> Dashboard:
    """A dashboard: sections of panels, which flow from left to right."""
    builder = dashboard.Dashboard(title).uid(uid).description(description).tags(["dynstack"])
    builder.time(f"now-{span}", "now").refresh("1m").timezone("browser")
    builder.tooltip(DashboardCursorSync.CROSSHAIR)
    link = dashboard.DashboardLink("Dynamic kernel stacks").type(DashboardLinkType.DASHBOARDS)
    builder.link(link.tags(["dynstack"]).include_vars(True).keep_time(True))
    for variable in variables:
        builder.with_variable(variable)
    for name, panels in sections.items():
        builder.with_row(dashboard.Row(name))
        for panel in panels:
            builder.with_panel(panel)
    result = builder.build()
    for number_, panel_ in enumerate(result.panels or [], start=1):
        panel_.id_val = number_
    return result
