"""`ether graph`: draw who publishes what to whom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from xml.sax.saxutils import escape

import typer

from ether.cli import output
from ether.cli.arguments import Overrides
from ether.cli.joined import find_classes_from, joined

if TYPE_CHECKING:
    from ether.wiring import Edge, Wiring

__all__ = ["graph", "mermaid", "svg"]

_BROKEN = {"error": "#d32f2f", "warning": "#e08a00"}
_GONE = ("lost", "disconnected")
_ENDS = {"recorder": "recorder", "": "nobody"}


def graph(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The session's YAML; by default the running session.")
    ] = None,
    svg_file: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Draw a picture instead; needs no other program.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Draw the wiring: instances, and the topics between them.

    Mermaid text, which GitHub, GitLab and most editors show as a picture; or SVG. What nobody publishes or hears, and
    what cannot fit, is marked.
    """
    from ether.wiring import Wiring

    if file is None:
        if overrides:
            raise typer.BadParameter("needs FILE", param_hint="--set")
        with joined() as ether:
            found = ether.instances()
            abouts = {name: each.about for name, each in found.items() if each.about is not None}
            wiring = Wiring.of_abouts(abouts, {name: str(each.state) for name, each in found.items()})
    else:
        from ether.component import check
        from ether.config import Config
        from ether.errors import ConfigError

        find_classes_from(file)
        config = Config.load(file, overrides or ())
        if problems := check(config):
            raise ConfigError(problems)
        wiring = Wiring.of_config(config)
    if svg_file is None:
        output.line(mermaid(wiring))
        return
    output.write(svg_file, svg(wiring))


@dataclass(slots=True)
class _Line:
    """All topics from one box to another."""

    giver: str
    taker: str
    edges: list[Edge] = field(default_factory=list)

    @property
    def broken(self) -> str | None:
        levels = {edge.level for edge in self.edges}
        return "error" if "error" in levels else "warning" if "warning" in levels else None

    @property
    def detail(self) -> str:
        return "\n".join(f"{edge.topic}: {edge.detail}" for edge in self.edges if edge.detail)


def _lines(wiring: Wiring) -> list[_Line]:
    """Return the edges of each pair together; what is broken apart from what is not."""
    found: dict[tuple[str, str, bool], _Line] = {}
    for edge in wiring.edges():
        giver, taker = edge.giver or "?", edge.taker or "?"
        found.setdefault((giver, taker, edge.level is not None), _Line(giver, taker)).edges.append(edge)
    return list(found.values())


def _boxes(wiring: Wiring, lines: Iterable[_Line]) -> dict[str, tuple[str, str, str]]:
    """Return name → (first line, second line, state) of each box that is drawn."""
    boxes = {node.name: (node.name, node.class_name, node.state) for node in wiring.nodes}
    ends = {name for line in lines for name in (line.giver, line.taker)} - boxes.keys()
    return boxes | {name: ("nobody" if name == "?" else name, "", "") for name in sorted(ends)}


# --- Mermaid


def mermaid(wiring: Wiring) -> str:
    """Return the wiring as a Mermaid flowchart."""
    lines = _lines(wiring)
    boxes = _boxes(wiring, lines)
    ids = {name: f"n{place}" for place, name in enumerate(boxes)}
    text = ["flowchart LR"]
    for name, (title, below, state) in boxes.items():
        shown = "<br/>".join(filter(None, [_quoted(title), _quoted(below), state if state in _GONE else ""]))
        text.append(f'    {ids[name]}(["{shown}"])' if not below else f'    {ids[name]}["{shown}"]')
    styles = []
    for place, line in enumerate(lines):
        topics = "<br/>".join(_quoted(edge.topic) for edge in line.edges)
        text.append(f'    {ids[line.giver]} {"-.->" if line.broken else "-->"}|"{topics}"| {ids[line.taker]}')
        if line.broken:
            styles.append(f"    linkStyle {place} stroke:{_BROKEN[line.broken]},color:{_BROKEN[line.broken]}")
    gone = [ids[name] for name, (_, _, state) in boxes.items() if state in _GONE]
    if gone:
        styles.append(f"    style {','.join(gone)} stroke:{_BROKEN['error']},stroke-dasharray:4")
    return "\n".join([*text, *styles])


def _quoted(text: str) -> str:
    """Return text that Mermaid shows as it is."""
    return "".join(each if each.isalnum() or each in " /_.-" else f"#{ord(each)};" for each in text)


# --- SVG

_FONT = 13
_WIDE = 7.4
"""Of a letter, px; fonts differ by less than the margins."""
_HIGH = 18
_MARGIN = 24


def svg(wiring: Wiring) -> str:
    """Return the wiring as an SVG picture: publishers on the left, their subscribers to the right of them."""
    lines = _lines(wiring)
    boxes = _boxes(wiring, lines)
    columns = _columns(list(boxes), lines)
    column_of = {name: place for place, names in enumerate(columns) for name in names}
    widths = [max(_text_width(boxes[name][:2]) for name in names) + 20 for names in columns]
    gaps = [
        max([_text_width(edge.topic for edge in line.edges) for line in lines if column_of[line.giver] == place] or [0])
        for place in range(len(columns))
    ]
    lefts = [_MARGIN + sum(widths[:place]) + sum(gaps[:place]) + 70 * place for place in range(len(columns))]
    high = max(_column_height(names, boxes) for names in columns) if columns else 0
    places: dict[str, tuple[float, float, float, float]] = {}
    for place, names in enumerate(columns):
        spare = (high - _column_height(names, boxes)) / (len(names) + 1)
        top = _MARGIN + spare
        for name in names:
            tall = _box_height(boxes[name])
            places[name] = (lefts[place], top, widths[place], tall)
            top += tall + 2 * _HIGH + spare
    drawn, labels = [], []
    for line in lines:
        here, there = column_of[line.giver], column_of[line.taker]
        ahead = there > here
        x1, y1 = _port(places[line.giver], out=ahead)
        x2, y2 = _port(places[line.taker], out=None if ahead else False)
        if ahead:
            bend = max(40.0, (x2 - x1) / 3)
            curve = f"C{x1 + bend:.0f},{y1:.0f} {x2 - bend:.0f},{y2:.0f} {x2:.0f},{y2:.0f}"
            share = 0.5 if there == here + 1 else 0.25
            labels.append((lefts[here] + widths[here] + (gaps[here] + 70) / 2, y1 + (y2 - y1) * share, line))
        else:  # back to a publisher: below the boxes
            x1, x2 = x1 + 12, x2 - 12
            dip = 50 + abs(x1 - x2) / 6
            curve = f"C{x1:.0f},{y1 + dip:.0f} {x2:.0f},{y2 + dip:.0f} {x2:.0f},{y2:.0f}"
            labels.append(((x1 + x2) / 2, (y1 + y2) / 2 + dip * 0.75, line))
        style = f'stroke="{_BROKEN[line.broken]}" stroke-dasharray="5 4"' if line.broken else 'stroke="#777"'
        drawn.append(f'<path d="M{x1:.0f},{y1:.0f} {curve}" fill="none" {style} marker-end="url(#end)"/>')
    bottom = high + 2 * _MARGIN
    taken: list[tuple[float, float, float, float]] = []
    for x, y, line in sorted(labels, key=lambda each: each[1]):
        half, tall = _text_width(edge.topic for edge in line.edges) / 2, len(line.edges) * _HIGH
        top = y - tall / 2
        for left, above, right, below in sorted(taken, key=lambda each: each[1]):
            if left < x + half and x - half < right and above < top + tall and top < below:
                top = below + 3
        taken.append((x - half, top, x + half, top + tall))
        drawn.append(_label(x, top, half, line))
        bottom = max(bottom, top + tall + _MARGIN)
    drawn += [_box(places[name], *boxes[name]) for name in boxes]
    wide = (lefts[-1] + widths[-1] + gaps[-1] + _MARGIN + 40) if columns else 2 * _MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:.0f}" height="{bottom:.0f}" '
            f'viewBox="0 0 {wide:.0f} {bottom:.0f}" font-family="sans-serif" font-size="{_FONT}">',
            '<defs><marker id="end" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            '<path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>',
            '<rect width="100%" height="100%" fill="white"/>',
            *drawn,
            "</svg>",
            "",
        ]
    )


def _columns(names: list[str], lines: list[_Line]) -> list[list[str]]:
    """Return the boxes in columns, each to the right of whoever publishes to it, except where a circle closes."""
    takers = {name: [line.taker for line in lines if line.giver == name] for name in names}
    heard = {name: sum(name in each for each in takers.values()) for name in names}
    rank: dict[str, int] = {}

    def visit(name: str, path: tuple[str, ...]) -> int:
        """Return the length of the longest way on from a box; a line back into the path is left out."""
        if name not in rank:
            ahead = [visit(each, (*path, name)) for each in takers[name] if each not in (*path, name)]
            rank[name] = max(ahead, default=-1) + 1
        return rank[name]

    for name in sorted(names, key=lambda each: heard[each]):
        visit(name, ())
    last = max(rank.values(), default=-1)
    columns = [[name for name in names if last - rank[name] == place] for place in range(last + 1)]
    order: dict[str, float] = {}
    for column in columns:  # beside those that feed them
        for name in column:
            above = [order[line.giver] for line in lines if line.taker == name and line.giver in order]
            order[name] = sum(above) / len(above) if above else float(names.index(name))
        column.sort(key=lambda name: order[name])
        order |= {name: float(place) for place, name in enumerate(column)}
    return columns


def _port(place: tuple[float, float, float, float], out: bool | None) -> tuple[float, float]:
    """Return where a line meets a box: on its right, on its left (None), or below it (False)."""
    x, y, wide, high = place
    if out is False:
        return x + wide / 2, y + high
    return (x if out is None else x + wide), y + high / 2


def _text_width(texts: Iterable[str]) -> float:
    return max((len(text) * _WIDE for text in texts), default=0.0)


def _box_height(box: tuple[str, str, str]) -> float:
    return _HIGH * (2 if box[1] else 1) + 14


def _column_height(names: list[str], boxes: dict[str, tuple[str, str, str]]) -> float:
    return sum(_box_height(boxes[name]) + 2 * _HIGH for name in names)


def _label(x: float, top: float, half: float, line: _Line) -> str:
    colour = _BROKEN[line.broken] if line.broken else "#333"
    high = len(line.edges) * _HIGH
    texts = "".join(
        f'<text x="{x:.0f}" y="{top + (place + 0.75) * _HIGH:.0f}" text-anchor="middle" fill="{colour}">'
        f"{escape(edge.topic)}</text>"
        for place, edge in enumerate(line.edges)
    )
    told = f"<title>{escape(line.detail)}</title>" if line.detail else ""
    back = (
        f'<path d="M{x - half:.0f},{top:.0f} h{2 * half:.0f} v{high} h{-2 * half:.0f} z" fill="white" opacity="0.85"/>'
    )
    return f"<g>{told}{back}{texts}</g>"


def _box(place: tuple[float, float, float, float], title: str, below: str, state: str) -> str:
    x, y, wide, high = place
    middle = x + wide / 2
    gone = state in _GONE
    stroke = f'stroke="{_BROKEN["error"]}" stroke-dasharray="5 4"' if gone else 'stroke="#444"'
    round_by = 5 if below else high / 2
    texts = f'<text x="{middle:.0f}" y="{y + 20:.0f}" text-anchor="middle" font-weight="bold">{escape(title)}</text>'
    if below:
        texts += (
            f'<text x="{middle:.0f}" y="{y + 20 + _HIGH:.0f}" text-anchor="middle" fill="#666">{escape(below)}</text>'
        )
    told = f"<title>{escape(state)}</title>" if state else ""
    return (
        f'<g>{told}<rect x="{x:.0f}" y="{y:.0f}" width="{wide:.0f}" height="{high:.0f}" rx="{round_by:.0f}" '
        f'fill="#f4f7fb" {stroke}/>{texts}</g>'
    )
