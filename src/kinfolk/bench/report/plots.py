"""Figures as data for plotly.js: https://plotly.com/javascript/reference/.

Rules:
1. Every figure has a table beside it that says the same (`kinfolk.bench.report.sections`): nothing
   is said by a picture alone.
2. kinfolk's are drawn thick and in colours that the colour-blind can tell apart (Okabe and Ito),
   the kernel's grey, peers thin. What spins is dashed. Each has a marker of its own too.
3. Colours of text and lines are left to page.js: they are those of the page, light or dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from kinfolk.bench.bends import bend
from kinfolk.bench.cases import METRICS
from kinfolk.bench.results import Document, Result
from kinfolk.bench.sizes import Shape, format_size

_OKABE_ITO = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#b09500",
    "#8a6bd1",
)
_PEERS = (
    "#a05252",
    "#7d7a3a",
    "#3f8080",
    "#80508f",
    "#b3803f",
    "#5a7fae",
    "#6f9a5a",
    "#99597a",
    "#708090",
    "#aa6f6f",
)
_GREYS = ("#6e6e6e", "#8c8c8c", "#7a7a8c", "#8c7a7a", "#7a8c7a", "#9a9a9a")
_MARKERS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "cross",
    "x",
    "star",
    "triangle-down",
    "hexagon",
    "pentagon",
)


class Plot(NamedTuple):
    """A figure."""

    traces: list[dict[str, Any]]
    layout: dict[str, Any]


class _Styles:
    """How each subject is drawn: the same in all figures."""

    def __init__(self, document: Document) -> None:
        palettes = {"kinfolk": _OKABE_ITO, "kernel": _GREYS, "peer": _PEERS}
        self._lines: dict[str, dict[str, Any]] = {}
        self._markers: dict[str, dict[str, Any]] = {}
        places = dict.fromkeys(palettes, 0)
        for about in document.subjects:
            family = about.family if about.family in palettes else "peer"
            place = places[family]
            places[family] += 1
            colour = palettes[family][place % len(palettes[family])]
            dash = "dash" if about.waiting == "spinning" else "solid"
            width = 3 if family == "kinfolk" else 1.5
            self._lines[about.name] = {"color": colour, "dash": dash, "width": width}
            self._markers[about.name] = {
                "color": colour, "symbol": _MARKERS[place % len(_MARKERS)], "size": 8
            }  # fmt: skip

    def line(self, subject: str) -> dict[str, Any]:
        return self._lines.get(subject, {"color": _GREYS[0]})

    def marker(self, subject: str) -> dict[str, Any]:
        return self._markers.get(subject, {"color": _GREYS[0]})


def over_size(document: Document, results: Sequence[Result], metric: str) -> Plot:
    """A figure of every subject over the message size; bars are from best to worst round."""
    styles = _Styles(document)
    sizes = sorted({result.case.size for result in results})
    traces = []
    for subject, those in _by_subject(results):
        points = [(r.case.size, r.values(metric), r.figure(metric)) for r in those]
        shown = [(size, values, middle) for size, values, middle in points if middle]
        if not shown:
            continue
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": subject,
                "x": [size for size, _, _ in shown], "y": [middle for _, _, middle in shown],
                "error_y": {
                    "type": "data", "symmetric": False, "thickness": 1, "width": 2,
                    "array": [max(values) - middle for _, values, middle in shown],
                    "arrayminus": [middle - min(values) for _, values, middle in shown],
                },
                "line": styles.line(subject), "marker": styles.marker(subject),
                "hovertemplate": _hint(subject, f"%{{x}} B: %{{y:.3s}} {METRICS[metric].unit}"),
            }
        )  # fmt: skip
    layout = {
        "xaxis": {
            "type": "log", "title": {"text": "bytes of a message"},
            "tickvals": sizes, "ticktext": [format_size(size) for size in sizes],
        },
        "yaxis": _y_axis(metric),
    }  # fmt: skip
    return Plot(traces, layout)


def tails(document: Document, results: Sequence[Result]) -> Plot:
    """How bad it gets: each percentile as far to the right as one in so many is worse."""
    styles = _Styles(document)
    traces = []
    levels: dict[float, str] = {}
    for result in results:
        points = []
        for level, value in result.tail.items():
            if level != "max":
                beyond = 100 / (100 - float(level.removeprefix("p")))
                levels[beyond] = level
                points.append((beyond, value))
        subject = result.case.subject
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": subject,
                "x": [x for x, _ in points], "y": [y for _, y in points],
                "line": styles.line(subject), "marker": styles.marker(subject),
                "hovertemplate": _hint(subject, "one in %{x:.0f} takes %{y:.4s} µs or more"),
            }
        )  # fmt: skip
    ticks = sorted(levels)
    layout = {
        "xaxis": {
            "type": "log", "title": {"text": "percentile"},
            "tickvals": ticks, "ticktext": [levels[tick] for tick in ticks],
        },
        "yaxis": _y_axis("round_trip"),
    }  # fmt: skip
    return Plot(traces, layout)


def stacked(results: Sequence[Result], metrics: Sequence[str], names: Sequence[str]) -> Plot:
    """Bars of several figures that add up, a bar for each subject, the shortest on top."""
    rows = sorted(
        (
            (sum(result.figure(m) or 0 for m in metrics), result)
            for result in results
            if result.rounds
        ),
        key=lambda row: -row[0],
    )
    subjects = [result.case.subject for _, result in rows]
    traces = [
        {
            "type": "bar", "orientation": "h", "name": name, "y": subjects,
            "x": [result.figure(metric) for _, result in rows],
            "marker": {"color": _OKABE_ITO[place]},
            "hovertemplate": f"%{{y}}, {name}: %{{x:.3s}} {METRICS[metric].unit}<extra></extra>",
        }
        for place, (metric, name) in enumerate(zip(metrics, names, strict=True))
    ]  # fmt: skip
    layout = {
        "barmode": "stack",
        "height": 130 + 26 * len(rows),
        "xaxis": {"title": {"text": METRICS[metrics[0]].unit}, "type": "linear"},
        "yaxis": {"automargin": True},
    }
    return Plot(traces, layout)


def shapes(document: Document, results: Sequence[Result]) -> Plot:
    """The rate with several senders and receivers."""
    styles = _Styles(document)
    traces = [
        {
            "type": "bar", "name": subject,
            "x": [str(Shape(r.case.senders, r.case.receivers)) for r in those],
            "y": [result.figure("rate") for result in those],
            "marker": {"color": styles.line(subject).get("color")},
            "hovertemplate": f"{subject}, %{{x}}: %{{y:.3s}} msg/s<extra></extra>",
        }
        for subject, those in _by_subject(results)
    ]  # fmt: skip
    axis = {"title": {"text": "senders × receivers"}, "type": "category"}
    return Plot(traces, {"barmode": "group", "xaxis": axis, "yaxis": _y_axis("rate")})


def growth(document: Document, results: Sequence[Result], units: str) -> Plot:
    """The cost of each over how many there are; a vertical line where it bends."""
    styles = _Styles(document)
    traces, lines = [], []
    for subject, those in _by_subject(results):
        points = curve(those)
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": subject,
                "x": [x for x, _ in points], "y": [y for _, y in points],
                "line": styles.line(subject), "marker": styles.marker(subject),
                "hovertemplate": _hint(subject, f"%{{x}} {units}: %{{y:.3s}} µs each"),
            }
        )  # fmt: skip
        if (where := bend(points)) is not None:
            lines.append(
                {
                    "type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": where, "x1": where,
                    "line": {"dash": "dot", "width": 1, "color": styles.line(subject)["color"]},
                }
            )  # fmt: skip
    axis = {"type": "log", "title": {"text": units}}
    return Plot(traces, {"xaxis": axis, "yaxis": _y_axis("each"), "shapes": lines})


def curve(results: Sequence[Result]) -> list[tuple[float, float]]:
    """The points of a curve of what grows, in order."""
    return sorted((r.case.grows, r.figure("each") or 0.0) for r in results if r.rounds)


def bars(results: Sequence[Result], metric: str) -> Plot:
    """A bar for each case, from the best to the worst round."""
    several = len({result.case.size for result in results}) > 1
    shown = [
        (_name(r, several), r.figure(metric) or 0.0, r.values(metric))
        for r in results
        if r.values(metric)
    ]
    shown.reverse()  # the first one on top
    trace = {
        "type": "bar", "orientation": "h", "name": METRICS[metric].unit,
        "y": [name for name, _, _ in shown], "x": [middle for _, middle, _ in shown],
        "error_x": {
            "type": "data", "symmetric": False, "thickness": 1,
            "array": [max(values) - middle for _, middle, values in shown],
            "arrayminus": [middle - min(values) for _, middle, values in shown],
        },
        "marker": {"color": _OKABE_ITO[0]},
        "hovertemplate": f"%{{y}}: %{{x:.3s}} {METRICS[metric].unit}<extra></extra>",
    }  # fmt: skip
    layout = {
        "height": 130 + 26 * len(shown),
        "xaxis": {"title": {"text": METRICS[metric].unit}},
        "yaxis": {"automargin": True},
        "showlegend": False,
    }
    return Plot([trace], layout)


def _name(result: Result, with_size: bool) -> str:
    size = f", {format_size(result.case.size)}" if with_size else ""
    variant = f", {result.case.variant}" if result.case.variant else ""
    return result.case.subject + size + variant


def _hint(subject: str, figures: str) -> str:
    """What a point says when it is pointed at, without the box of the trace's name beside it."""
    return f"{subject}<br>{figures}<extra></extra>"


def _y_axis(metric: str) -> dict[str, Any]:
    return {"type": "log", "title": {"text": METRICS[metric].unit}, "exponentformat": "SI"}


def _by_subject(results: Iterable[Result]) -> list[tuple[str, list[Result]]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        if result.rounds:
            found.setdefault(result.case.subject, []).append(result)
    return list(found.items())
