"""Pictures are well-formed, within their frame, and say what they show."""

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest

from tunesmith.report import charts
from tunesmith.report.charts import WIDTH, Whisker, candidates_chart, confusion_chart, cost_chart, loss_chart

ROWS = [
    Whisker(1, "tune/<model>/lora", 0.8, 0.75, 0.85, 900.0, "80.0 %", chosen=True),
    Whisker(2, "embedding & head", 0.74, 0.70, 0.78, 60.0, "74.0 %"),
    Whisker(3, "baseline/majority", 0.5, 0.45, 0.55, 0.0, "50.0 %"),
]


def drawn(svg):
    root = ET.fromstring(svg)
    height = float(root.get("viewBox").split()[3])
    for element in root.iter():
        for key, value in element.attrib.items():
            if key in ("x", "x1", "x2", "cx"):
                assert -1 <= float(value) <= WIDTH + 1, (element.tag, key, value)
            if key in ("y", "y1", "y2", "cy"):
                assert -1 <= float(value) <= height + 1, (element.tag, key, value)
    return root, [element.text for element in root.iter("text")]


def test_candidates_are_sorted_and_the_choice_is_marked():
    root, texts = drawn(candidates_chart(ROWS[::-1], "accuracy"))
    names = [t for t in texts if t[:2] in ("1.", "2.", "3.")]
    assert names == ["1. tune/<model>/lora", "2. embedding & head", "3. baseline/majority"]
    chosen = [e for e in root.iter("circle") if "choice" in e.get("class")]
    assert len(chosen) == 1
    across = [float(e.get("cx")) for e in root.iter("circle")]
    assert across == sorted(across, reverse=True)


def test_a_whisker_is_as_long_as_its_interval():
    root, _ = drawn(candidates_chart(ROWS, "accuracy"))
    bars = [e for e in root.iter("line") if "whisker" in e.get("class") and e.get("y1") == e.get("y2")]
    lengths = [float(b.get("x2")) - float(b.get("x1")) for b in bars]
    assert lengths[0] / lengths[1] == pytest.approx(0.10 / 0.08, rel=0.01)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_candidate_at_the_edge_can_be_drawn(value):
    row = Whisker(1, "only", value, value, value, 1.0, "", chosen=True)
    drawn(candidates_chart([row], "accuracy"))
    drawn(cost_chart([row], "cost"))


def test_cost_leaves_out_what_has_none_and_keeps_equals_apart():
    rows = [*ROWS, ROWS[1]._replace(key=4), ROWS[1]._replace(key=5, cost=math.inf)]
    root, texts = drawn(cost_chart(rows, "accuracy against cost"))
    places = [(e.get("cx"), e.get("cy")) for e in root.iter("circle")]
    assert len(places) == len(set(places)) == 4
    assert "5" not in texts
    assert {"1 s", "1 min"} <= set(texts)
    assert cost_chart([ROWS[0]._replace(cost=math.inf)], "nothing") == ""


def test_loss_curves_mark_the_step_that_was_kept():
    root, texts = drawn(
        loss_chart([(s, 90.0 if s == 1 else 2.0 / s) for s in range(1, 41)], [(20, 0.3), (40, 0.35)], 20, "loss")
    )
    assert "kept: step 20" in texts
    assert [e.get("class") for e in root.iter("polyline")] == ["curve train", "curve validation"]
    assert len(list(root.iter("circle"))) == 2
    assert loss_chart([], [], None, "loss") == ""


@pytest.mark.parametrize("k", [2, 6, 20])
def test_confusion_counts_stand_in_their_cells(k):
    counts = [[10 * i + j + 1 for j in range(k)] for i in range(k)]
    root, texts = drawn(confusion_chart(counts, [f"a rather long label {i}" for i in range(k)], "confusion"))
    assert len(list(root.iter("rect"))) == k * k
    if k < 20:
        assert {str(c) for row in counts for c in row} <= set(texts)


def crosses(*xs):
    return [charts.Cross(i, f"v{i}", x, x - 0.01, x + 0.01, 50 + i, 40 + i, 60 + i, i == 2) for i, x in enumerate(xs)]


def dots(svg):
    return [(float(x), float(y)) for x, y in re.findall(r'<circle class="dot \w+" cx="([-\d.]+)" cy="([-\d.]+)"', svg)]


def test_trade_off_shows_every_point_with_its_intervals_and_the_front():
    svg = charts.trade_off_chart(crosses(0.0, 0.1, 0.3), [0, 2], "nats", "accuracy")
    assert svg.count('class="whisker') == 6
    assert svg.count('class="dot choice"') == 1
    assert svg.count(",") >= 2 and "compressed" not in svg
    points = dots(svg)
    front = re.search(r'points="([^"]+)"', svg).group(1).split()
    assert len(front) == 2 and all(0 <= x <= charts.WIDTH for x, _ in points)
    steps = sorted(x for x, _ in points)
    assert (steps[2] - steps[1]) == pytest.approx(2 * (steps[1] - steps[0]), rel=0.02)


def test_a_point_far_off_does_not_squeeze_the_others():
    svg = charts.trade_off_chart(crosses(0.0, 0.02, 0.1, 0.12, 6.9), [0, 2], "nats", "accuracy")
    assert "nats (compressed)" in svg
    steps = sorted(x for x, _ in dots(svg))
    assert steps[2] - steps[0] > 40 and all(b > a for a, b in itertools.pairwise(steps))
    assert all(0 <= x <= charts.WIDTH for x in steps)
