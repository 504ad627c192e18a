"""What a dashboard is made of, and the JSON that Grafana reads of it. A panel is a title, what it says, a unit and queries."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
COLUMNS = 24

Kind = Literal["timeseries", "stat", "bargauge", "table"]
Query = tuple[str, str]  # PromQL, and what its lines are called


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        title: what it shows.
        about: how to read it.
        unit: Grafana's name of the unit.
        queries: what is drawn.
        kind: how.
        width: of 24 columns.
        height: in Grafana's rows.
        stacked: whether lines stand on each other.
        empty: shown in the place of a value, where there is none.
    """

    title: str
    about: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    width: int = 12
    height: int = 8
    stacked: bool = False
    empty: str = ""


@dataclass(frozen=True)
class Variable:
    """A choice at the top of a dashboard: the values of a label."""

    name: str
    label: str
    metric: str
    multiple: bool = True
    first: str = ""

    @property
    def query(self) -> str:
        """As Grafana writes it."""
        return f"label_values({self.metric}, {self.label})"


@dataclass(frozen=True)
class Dashboard:
    """One page; `name` is its file and, behind `secateur-`, its address."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    variables: tuple[Variable, ...] = ()


def document(dashboard: Dashboard) -> dict[str, Any]:
    """What Grafana reads."""
    return {
        "uid": f"secateur-{dashboard.name}",
        "title": f"Secateur: {dashboard.title}",
        "tags": ["secateur"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "tags": ["secateur"], "title": "Secateur", "asDropdown": False, "keepTime": True}],
        "templating": {"list": [_variable(each) for each in dashboard.variables]},
        "panels": [
            _panel(panel, number, place)
            for number, (panel, place) in enumerate(zip(dashboard.panels, _places(dashboard.panels), strict=True), 1)
        ],
    }


def text(dashboard: Dashboard) -> str:
    """The file of a dashboard."""
    return json.dumps(document(dashboard), indent=2) + "\n"


def _places(panels: Sequence[Panel]) -> Iterator[dict[str, int]]:
    """From left to right, in rows as high as their highest panel."""
    x = y = height = 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y, height = 0, y + height, 0
        yield {"x": x, "y": y, "w": panel.width, "h": panel.height}
        x, height = x + panel.width, max(height, panel.height)


def _variable(variable: Variable) -> dict[str, Any]:
    chosen = {"text": "All", "value": "$__all"} if variable.multiple else {"text": variable.first, "value": variable.first}
    return {
        "name": variable.name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "definition": variable.query,
        "refresh": 2,
        "sort": 1,
        "multi": variable.multiple,
        "includeAll": variable.multiple,
        "current": chosen,
    }


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stacked else "none"}
        defaults["custom"] = {"stacking": stacking, "fillOpacity": 10, "showPoints": "never", "axisSoftMin": 0}
    if panel.empty:
        defaults["noValue"] = panel.empty
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "gridPos": place,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": [_target(panel, index, query, legend) for index, (query, legend) in enumerate(panel.queries)],
        **_transformed(panel),
    }


def _target(panel: Panel, index: int, query: str, legend: str) -> dict[str, Any]:
    now = panel.kind != "timeseries"
    return {
        "refId": chr(ord("A") + index),
        "datasource": DATASOURCE,
        "expr": query,
        "legendFormat": legend or "__auto",
        "instant": now,
        "range": not now,
        "format": "table" if panel.kind == "table" else "time_series",
    }


def _transformed(panel: Panel) -> dict[str, Any]:
    return {"transformations": [{"id": "organize", "options": {"excludeByName": {"Time": True}}}]} if panel.kind == "table" else {}


_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: dict[Kind, dict[str, Any]] = {
    "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {"reduceOptions": _LAST, "colorMode": "value", "graphMode": "none"},
    "bargauge": {"reduceOptions": _LAST, "orientation": "horizontal", "displayMode": "basic"},
    "table": {"showHeader": True},
}
