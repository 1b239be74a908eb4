"""Drawing a graph without cycles in layers, after Sugiyama: who waits for somebody stands below.

Layers by the longest way from the top, lines that pass a layer take a place in it, places are ordered by where their
neighbours are (a few sweeps down and up), and then pulled towards them as far as there is room.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

SWEEPS = 6
PULLS = 8


@dataclass(frozen=True)
class Size:
    """Of a box and of the room between two, in the drawing's own units; `lane` is what a passing line takes."""

    width: float = 196
    height: float = 54
    gap: float = 22
    rise: float = 46
    lane: float = 14
    margin: float = 8


@dataclass(frozen=True)
class Line:
    """A dependency, as the points it passes, from the upstream's lower edge to the downstream's upper one."""

    upstream: Hashable
    downstream: Hashable
    points: Sequence[tuple[float, float]]

    @property
    def path(self) -> str:
        """As SVG writes it: curves that leave and arrive upright."""
        (x, y), *rest = self.points
        parts = [f"M{x:.1f} {y:.1f}"]
        for to_x, to_y in rest:
            middle = (y + to_y) / 2
            parts.append(f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
            x, y = to_x, to_y
        return " ".join(parts)


@dataclass(frozen=True)
class Layout:
    """Upper left corners of boxes, lines between them, and how large all is."""

    corners: Mapping[Hashable, tuple[float, float]]
    lines: Sequence[Line]
    width: float
    height: float


@dataclass(frozen=True)
class _Lane:
    """Where a line passes a layer."""

    upstream: Hashable
    downstream: Hashable
    layer: int


def lay_out(nodes: Sequence[Hashable], edges: Iterable[tuple[Hashable, Hashable]], size: Size = Size()) -> Layout:
    """Place `nodes`, whose order decides where nothing else does; edges go from upstream to downstream."""
    edges = list(dict.fromkeys(edges))
    depth = _depths(nodes, edges)
    layers: list[list[Hashable]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for node in nodes:
        layers[depth[node]].append(node)
    ways: list[list[Hashable]] = []
    for up, down in edges:
        lanes: list[Hashable] = [_Lane(up, down, layer) for layer in range(depth[up] + 1, depth[down])]
        for lane in lanes:
            layers[lane.layer].append(lane)  # type: ignore[attr-defined]
        ways.append([up, *lanes, down])
    above, below = _neighbours(ways)
    _order(layers, above, below)
    middles = _middles(layers, above, below, size)
    least = min((middles[each] - _width(each, size) / 2 for layer in layers for each in layer), default=0.0)
    shift = size.margin - least
    tops = [size.margin + number * (size.height + size.rise) for number in range(len(layers))]
    corners = {node: (middles[node] + shift - size.width / 2, tops[depth[node]]) for node in nodes}
    lines = [Line(way[0], way[-1], _points(way, middles, depth, tops, shift, size)) for way in ways]
    width = max((x + size.width for x, _ in corners.values()), default=0.0)
    width = max([width, *(x for line in lines for x, _ in line.points)]) + size.margin
    height = (tops[-1] + size.height if tops else 0.0) + size.margin
    return Layout(corners, lines, width, height)


def _depths(nodes: Sequence[Hashable], edges: Iterable[tuple[Hashable, Hashable]]) -> dict[Hashable, int]:
    upstreams: dict[Hashable, list[Hashable]] = {node: [] for node in nodes}
    for up, down in edges:
        upstreams[down].append(up)
    depth: dict[Hashable, int] = {}
    for node in TopologicalSorter(upstreams).static_order():
        depth[node] = 1 + max((depth[up] for up in upstreams[node]), default=-1)
    return depth


Neighbours = Mapping[Hashable, Sequence[Hashable]]


def _neighbours(ways: Iterable[Sequence[Hashable]]) -> tuple[Neighbours, Neighbours]:
    above: dict[Hashable, list[Hashable]] = defaultdict(list)
    below: dict[Hashable, list[Hashable]] = defaultdict(list)
    for way in ways:
        for up, down in itertools.pairwise(way):
            above[down].append(up)
            below[up].append(down)
    return above, below


def _order(layers: list[list[Hashable]], above: Neighbours, below: Neighbours) -> None:
    """Sort each layer by the mean place of its neighbours in the layer before, down and up again."""
    for sweep in range(SWEEPS):
        goes_down = sweep % 2 == 0
        order = layers if goes_down else layers[::-1]
        neighbours = above if goes_down else below
        for fixed, layer in itertools.pairwise(order):
            place = {each: number for number, each in enumerate(fixed)}
            own = {each: number for number, each in enumerate(layer)}
            means = {
                each: sum(its) / len(its) if (its := [place[n] for n in neighbours.get(each, ())]) else own[each]
                for each in layer
            }
            layer.sort(key=lambda each, means=means: means[each])  # type: ignore[misc]


def _width(each: Hashable, size: Size) -> float:
    return size.lane if isinstance(each, _Lane) else size.width


def _middles(
    layers: Sequence[Sequence[Hashable]], above: Neighbours, below: Neighbours, size: Size
) -> dict[Hashable, float]:
    middles: dict[Hashable, float] = {}
    for layer in layers:
        whole = sum(_width(each, size) + size.gap for each in layer) - size.gap
        x = -whole / 2
        for each in layer:
            middles[each] = x + _width(each, size) / 2
            x += _width(each, size) + size.gap
    for pull in range(PULLS):
        goes_down = pull % 2 == 0
        for layer in layers if goes_down else layers[::-1]:
            wanted = [_mean(middles, (above if goes_down else below).get(each, ()), middles[each]) for each in layer]
            middles |= dict(zip(layer, _fit(layer, wanted, size), strict=True))
    return middles


def _mean(middles: Mapping[Hashable, float], neighbours: Sequence[Hashable], own: float) -> float:
    return sum(middles[each] for each in neighbours) / len(neighbours) if neighbours else own


def _fit(layer: Sequence[Hashable], wanted: Sequence[float], size: Size) -> list[float]:
    """As near to what is wanted as the order and the widths allow: the mean of pushing right and of pushing left."""

    def pushed(items: Sequence[tuple[Hashable, float]]) -> list[float]:
        found: list[float] = []
        for number, (each, middle) in enumerate(items):
            if number:
                before = items[number - 1][0]
                apart = (_width(before, size) + _width(each, size)) / 2 + size.gap
                middle = max(middle, found[-1] + apart)
            found.append(middle)
        return found

    items = list(zip(layer, wanted, strict=True))
    right = pushed(items)
    left = [-middle for middle in pushed([(each, -middle) for each, middle in items[::-1]])][::-1]
    return [(a + b) / 2 for a, b in zip(left, right, strict=True)]


def _points(
    way: Sequence[Hashable],
    middles: Mapping[Hashable, float],
    depth: Mapping[Hashable, int],
    tops: Sequence[float],
    shift: float,
    size: Size,
) -> list[tuple[float, float]]:
    up, *lanes, down = way
    points = [(middles[up] + shift, tops[depth[up]] + size.height)]
    for lane in lanes:
        top = tops[lane.layer]  # type: ignore[attr-defined]
        points += [(middles[lane] + shift, top), (middles[lane] + shift, top + size.height)]
    return [*points, (middles[down] + shift, tops[depth[down]])]
