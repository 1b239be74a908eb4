"""The drawing of a graph: layers, and boxes that do not overlap."""

from __future__ import annotations

import random
import time
from itertools import combinations

import pytest

from runs.layout import Layout, Size, lay_out

SIZE = Size()


def check(layout: Layout, edges: list[tuple[str, str]]) -> None:
    for up, down in edges:
        assert layout.corners[up][1] + SIZE.height < layout.corners[down][1], f"{down} is not below {up}"
    for (x, y), (other_x, other_y) in combinations(layout.corners.values(), 2):
        assert abs(y - other_y) > 1 or abs(x - other_x) >= SIZE.width + SIZE.gap - 0.01
    for x, y in layout.corners.values():
        assert x >= 0
        assert y >= 0
        assert x + SIZE.width <= layout.width
        assert y + SIZE.height <= layout.height
    for line in layout.lines:
        x, y = layout.corners[line.upstream]
        assert line.points[0] == pytest.approx((x + SIZE.width / 2, y + SIZE.height))
        x, y = layout.corners[line.downstream]
        assert line.points[-1] == pytest.approx((x + SIZE.width / 2, y))


def test_a_diamond_is_symmetrical():
    edges = [("top", "left"), ("top", "right"), ("left", "bottom"), ("right", "bottom"), ("top", "bottom")]
    layout = lay_out(["bottom", "left", "right", "top"], edges)
    check(layout, edges)
    middle = {name: x + SIZE.width / 2 for name, (x, _) in layout.corners.items()}
    assert middle["top"] == pytest.approx(middle["bottom"], abs=40)
    (past,) = [line for line in layout.lines if (line.upstream, line.downstream) == ("top", "bottom")]
    left, right = sorted([layout.corners["left"][0], layout.corners["right"][0]])
    assert not any(x - 1 < at < x + SIZE.width + 1 for at, _ in past.points[1:-1] for x in (left, right)), (
        "a line that passes a layer runs between the boxes"
    )


def test_lines_do_not_cross_where_they_need_not():
    edges = [("a", "z"), ("b", "y"), ("c", "x")]
    layout = lay_out(["a", "b", "c", "x", "y", "z"], edges)
    check(layout, edges)
    assert [layout.corners[n][0] for n in "zyx"] == sorted(layout.corners[n][0] for n in "zyx")


def test_any_graph_is_drawn_without_overlap_and_soon():
    chance = random.Random(7)
    nodes = [f"n{number}" for number in range(200)]
    edges = [(nodes[a], nodes[b]) for a, b in {tuple(sorted(chance.sample(range(200), 2))) for _ in range(260)}]
    began = time.thread_time()
    check(lay_out(nodes, edges), edges)
    assert time.thread_time() - began < 5, "of this thread's own time: others may keep it waiting"


def test_nothing_is_drawn_of_nothing():
    assert lay_out([], []).corners == {}
