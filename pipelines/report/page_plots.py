"""Figures of the page, made with Bokeh; they are empty, and the page's script fills them with what is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.embed import json_item
from bokeh.layouts import column
from bokeh.models import BoxZoomTool, ColumnDataSource, HoverTool, LinearColorMapper, Range1d
from bokeh.models.annotations import Span
from bokeh.palettes import Cividis256
from bokeh.plotting import figure

from cache.targets import Target
from pipelines.console.escaping import printable
from pipelines.report.figures import COLOURS as FOUR
from pipelines.report.predictions import Predicted

COLOURS = (*FOUR, "#d55e00", "#56b4e9")  # colour-blind safe [Okabe and Ito]
DASHES = ("solid", "dashed", "dotted", "dotdash")
GAPS = {
    "visual": ("no face", "#d55e00", "right_diagonal_line"),
    "audio": ("no sound", "#56b4e9", "left_diagonal_line"),
}
"""Modality → what its absence is called, colour and pattern of its band."""
CELLS = 30  # of the circumplex, along each side
_PAD = 1.05


def look_of(number: int) -> tuple[str, str]:
    """Colour and dashes of a system's line."""
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def make_plots(predicted: Predicted) -> dict[str, Any]:
    """The figures as JSON values: name of an element of the page → what goes there."""
    plots = {"curves": _curves()}
    if predicted.trials:
        plots["timeline"] = _timeline(predicted)
        if len(predicted.targets) > 1:
            across, up = plane(predicted.targets)
            for kind in ("label", "prediction"):
                plots[f"plane-{kind}"] = _plane(kind, predicted.targets[across], predicted.targets[up])
    numbers: dict[str, str] = {}
    return {name: _renumber(json_item(model), numbers) for name, model in plots.items()}


def _renumber(document: Any, numbers: dict[str, str]) -> Any:
    """The document with its ids counted from 1, as those of Bokeh go on counting in a process: equal results are equal pages."""
    if isinstance(document, dict):
        return {
            key: numbers.setdefault(value, f"p{len(numbers) + 1}")
            if key in ("id", "root_id")
            else _renumber(value, numbers)
            for key, value in document.items()
        }
    return [_renumber(each, numbers) for each in document] if isinstance(document, list) else document


def plane(targets: Sequence[Target]) -> tuple[int, int]:
    """Columns of the two targets that span the circumplex: valence and arousal, or the first two."""
    names = [target.name.lower() for target in targets]
    return (names.index("valence"), names.index("arousal")) if {"valence", "arousal"} <= set(names) else (0, 1)


def _figure(**settings: Any) -> Any:
    made = figure(
        toolbar_location=None,
        outline_line_color=None,
        output_backend="canvas",
        **settings,
    )
    made.axis.axis_label_text_font_style = "normal"
    return made


def _curves() -> Any:
    """Figures by epoch: a thin line for each network, a thick one for the mean of a system's."""
    made = _figure(
        name="curves",
        height=300,
        sizing_mode="stretch_width",
        tools="box_zoom",
        x_axis_label="epoch",
        x_range=Range1d(start=0, end=1),
        y_range=Range1d(start=0, end=1),
    )
    empty: dict[str, list[Any]] = {key: [] for key in ("xs", "ys", "colour", "dash", "width", "alpha", "system", "run")}
    lines = made.multi_line(
        "xs",
        "ys",
        line_color="colour",
        line_dash="dash",
        line_width="width",
        line_alpha="alpha",
        source=ColumnDataSource(empty, name="curves-source"),
    )
    tips = [("system", "@system"), ("network", "@run"), ("epoch", "$x{0}"), ("figure", "$y{0.000}")]
    made.add_tools(HoverTool(renderers=[lines], tooltips=tips, line_policy="nearest"))
    return made


def _timeline(predicted: Predicted) -> Any:
    """A panel per target, and below them which modalities were missing; all share the time."""
    frames = ColumnDataSource({"time": []}, name="frames")
    gaps = {modality: ColumnDataSource({"x0": [], "x1": []}, name=f"gaps-{modality}") for modality in GAPS}
    time = Range1d(start=0, end=1, name="time")
    panels = []
    for place, target in enumerate(predicted.targets):
        reach = _PAD * target.half
        panel = _figure(
            name=f"panel-{place}",
            height=190,
            sizing_mode="stretch_width",
            x_range=time,
            y_range=Range1d(start=target.middle - reach, end=target.middle + reach),
            y_axis_label=printable(target.name, keep=""),
            tools="",
        )
        for modality, (_, colour, pattern) in GAPS.items():
            panel.vstrip(
                "x0",
                "x1",
                source=gaps[modality],
                fill_color=colour,
                fill_alpha=0.12,
                line_color=None,
                hatch_pattern=pattern,
                hatch_color=colour,
                hatch_alpha=0.5,
                hatch_weight=1,
                hatch_scale=10,
            )
        for number in range(len(predicted.systems)):
            colour, dash = look_of(number)
            name = f"line-{number + 1}-{place}"
            frames.data[name] = []
            panel.line("time", name, source=frames, line_color=colour, line_dash=dash, line_width=1.8, name=name)
        frames.data[f"line-0-{place}"] = []
        panel.line("time", f"line-0-{place}", source=frames, line_color="black", line_width=2.2, name=f"line-0-{place}")
        panels.append(panel)
    panels[-1].xaxis.axis_label = "time, s"
    for place, panel in enumerate(panels):
        panel.add_layout(
            Span(dimension="height", location=0, line_width=1.5, line_color="gray", name=f"cursor-{place}")
        )
        panel.add_tools(BoxZoomTool(dimensions="width"))
    return column(*panels, sizing_mode="stretch_width", name="timeline")


def _plane(kind: str, across: Target, up: Target) -> Any:
    """How often labels or predictions lie where on the circumplex; the circle has the radius of half the range."""
    made = _figure(
        name=f"plane-{kind}",
        title=kind,
        width=360,
        height=360,
        sizing_mode="scale_width",
        tools="",
        x_range=Range1d(start=across.middle - _PAD * across.half, end=across.middle + _PAD * across.half),
        y_range=Range1d(start=up.middle - _PAD * up.half, end=up.middle + _PAD * up.half),
        x_axis_label=printable(across.name, keep=""),
        y_axis_label=printable(up.name, keep=""),
    )
    colours = LinearColorMapper(palette=Cividis256[::-1], low=0, high=1, name=f"mapper-{kind}")
    cells = made.rect(
        "x",
        "y",
        width=2 * across.half / CELLS,
        height=2 * up.half / CELLS,
        source=ColumnDataSource({"x": [], "y": [], "shade": [], "share": []}, name=f"cells-{kind}"),
        fill_color={"field": "shade", "transform": colours},
        line_color=None,
    )
    turn = np.linspace(0, 2 * np.pi, 121)
    made.line(across.middle + across.half * np.cos(turn), up.middle + up.half * np.sin(turn), line_color="gray")
    made.add_layout(Span(dimension="height", location=across.middle, line_color="gray", line_dash="dotted"))
    made.add_layout(Span(dimension="width", location=up.middle, line_color="gray", line_dash="dotted"))
    made.add_tools(HoverTool(renderers=[cells], tooltips=[("share of frames", "@share{0.00%}")]))
    return made
