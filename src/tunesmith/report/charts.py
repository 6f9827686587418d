"""Small pictures as inline SVG: pure functions from numbers to text.

Colours come from the page's style sheet through classes, so that the pictures follow its light and dark
modes. Each picture is drawn for a width of 480 units, readable from a phone to a printed page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Literal, NamedTuple

WIDTH = 480
FAR_OFF = 8.0  # times the middle one: a point so far off compresses its axis
DECADES = [m * 10.0**k for k in range(-3, 4) for m in (1, 3)]  # ticks of a compressed axis
BESIDE = [(r * dx, r * dy) for r in (13, 22, 31) for dx, dy in ((0.8, -0.8), (-0.8, -0.8), (0.8, 0.8), (-0.8, 0.8))]
UNITS = (("d", 86_400.0), ("h", 3600.0), ("min", 60.0))
DURATIONS = (
    1.0,
    10.0,
    60.0,
    600.0,
    3600.0,
    36_000.0,
    86_400.0,
    864_000.0,
    8_640_000.0,
)  # ticks of cost, seconds


class Whisker(NamedTuple):
    """One candidate: ``key`` is its number in the table, ``cost`` in seconds, ``text`` its value in words."""

    key: int
    label: str
    value: float
    low: float
    high: float
    cost: float
    text: str
    chosen: bool = False


class Cross(NamedTuple):
    """One point with intervals both ways; ``key`` is its number in the table."""

    key: int
    label: str
    x: float
    x_low: float
    x_high: float
    y: float
    y_low: float
    y_high: float
    chosen: bool = False


def trade_off_chart(points: Sequence[Cross], front: Sequence[int], x_title: str, y_title: str) -> str:
    """One quantity against another with intervals, and a line through those that no other beats.

    Where one point lies far off the others, the axis across is compressed away from 0, so as not to squeeze them.

    Args:
        points: At least one.
        front: Keys of the points on the line, from left to right.
        x_title: What stands below the picture.
        y_title: What stands above it.
    """
    left, right, top, bottom = 44, WIDTH - 16, 30, 270
    first, last = min(p.x_low for p in points), max(p.x_high for p in points)
    up = _ticks(min(p.y_low for p in points), max(p.y_high for p in points))
    sizes = sorted(abs(p.x) for p in points)
    middle = sizes[len(sizes) // 2]
    compressed = 0 < FAR_OFF * middle < sizes[-1]

    def place(value: float) -> float:
        return math.asinh(value / middle) if compressed else value

    across = _ticks(first, last)
    if compressed:
        x_title += " (compressed)"
        wide = (0.0, *(size for size in DECADES if size >= middle / 2))
        across = sorted(t for size in wide for t in {size, -size} if first <= t <= last)
    else:
        first, last = across[0], across[-1]
    along = _scale(place(first), place(last), left + 12, right - 12)

    def x(value: float) -> float:
        return along(place(value))

    y = _scale(up[0], up[-1], bottom, top)
    parts = [_line(left, y(t), right, y(t), "grid") for t in up]
    parts += [_text(left - 6, y(t) + 4, _number(t), "tick", "end") for t in up]
    parts += [_line(x(t), top, x(t), bottom, "grid") for t in across]
    parts += [_text(x(t), bottom + 18, _number(t), "tick", _anchor(x(t))) for t in across]
    parts += [_text(left, top - 12, y_title, "tick", "start"), _text(right, bottom + 36, x_title, "tick", "end")]
    by_key = {p.key: p for p in points}
    line = " ".join(f"{x(by_key[k].x):.1f},{y(by_key[k].y):.1f}" for k in front)
    parts.append(f'<polyline class="curve validation" points="{line}"/>')
    ordered = sorted(points, key=lambda p: p.chosen)  # the choice on top
    for p in ordered:
        name = "choice" if p.chosen else "other"
        parts += [
            _line(x(p.x_low), y(p.y), x(p.x_high), y(p.y), f"whisker {name}"),
            _line(x(p.x), y(p.y_low), x(p.x), y(p.y_high), f"whisker {name}"),
        ]
    parts += [_circle(x(p.x), y(p.y), 4.5, f"dot {'choice' if p.chosen else 'other'}") for p in ordered]
    taken = [(x(p.x), y(p.y)) for p in points]
    for p in reversed(ordered):  # a number stands beside its dot, where no dot and no other number is
        places = [(x(p.x) + dx, y(p.y) + dy) for dx, dy in BESIDE]
        at = next((q for q in places if all(math.dist(q, other) > 12 for other in taken)), places[0])
        taken.append(at)
        parts.append(_text(at[0], at[1] + 4, str(p.key), f"label {'choice' if p.chosen else 'other'}", "middle"))
    return _svg(bottom + 44, f"{y_title} against {x_title}", parts)


ThreadName = Literal["choice", "own", "whole", "short"]  # a short one was stopped before the end


class Thread(NamedTuple):
    """One line of parallel coordinates: where it crosses each axis, from 0 at the bottom to 1."""

    label: str
    places: tuple[float, ...]
    name: ThreadName = "whole"


def parallel_chart(axes: Sequence[tuple[str, Sequence[tuple[float, str]]]], threads: Sequence[Thread]) -> str:
    """Parallel coordinates: an upright axis for each quantity, a line through them for each that was tried.

    Args:
        axes: At least two; a title, and what stands beside which places of the axis.
        threads: At least one; each crosses every axis.
    """
    left, right, top, bottom = 40, WIDTH - 40, 34, 250
    x = _scale(0, len(axes) - 1, left, right)
    y = _scale(0, 1, bottom, top)
    parts = []
    for thread in sorted(threads, key=lambda t: ("short", "whole", "own", "choice").index(t.name)):
        points = " ".join(f"{x(i):.1f},{y(place):.1f}" for i, place in enumerate(thread.places))
        title = f"<title>{escape(thread.label)}</title>"
        parts.append(f'<polyline class="thread {thread.name}" points="{points}">{title}</polyline>')
    for i, (title, ticks) in enumerate(axes):
        parts += [_line(x(i), top, x(i), bottom, "axis")]
        parts += [_text(x(i) + 4, y(place) - 3, text, "tick", "start") for place, text in ticks]
        parts.append(_text(x(i), top - 14 if i % 2 else bottom + 24, title, "tick", _anchor(x(i) - 12)))
    return _svg(bottom + 34, "Settings of each trial, and what it was worth", parts)


def candidates_chart(rows: Sequence[Whisker], title: str) -> str:
    """Dot and whisker of each candidate, in the order of the table, the choice highlighted.

    Args:
        rows: One per candidate, at least one.
        title: What a screen reader says, and the name of the axis.
    """
    ordered = sorted(rows, key=lambda r: r.key)
    top, step, left, right = 8, 44, 10, WIDTH - 10
    ticks = _ticks(min(r.low for r in rows), max(r.high for r in rows))
    x = _scale(ticks[0], ticks[-1], left, right)
    bottom = top + step * len(ordered)
    parts = [_line(x(t), top, x(t), bottom, "grid") for t in ticks]
    parts += [_text(x(t), bottom + 16, _number(t), "tick", _anchor(x(t))) for t in ticks]
    for i, row in enumerate(ordered):
        y = top + step * i + 30
        name = "choice" if row.chosen else "other"
        parts += [
            _text(left, y - 14, f"{row.key}. {row.label}", f"label {name}", "start"),
            _text(right, y - 14, row.text, f"label {name}", "end"),
            _line(x(row.low), y, x(row.high), y, f"whisker {name}"),
            *(_line(x(end), y - 4, x(end), y + 4, f"whisker {name}") for end in (row.low, row.high)),
            _circle(x(row.value), y, 5, f"dot {name}"),
        ]
    return _svg(bottom + 24, title, parts)


def cost_chart(rows: Sequence[Whisker], title: str) -> str:
    """Quality against cost: seconds to train and to answer 10,000 times on a logarithmic axis.

    Args:
        rows: One per candidate, at least one; a candidate of unknown cost is left out.
        title: What a screen reader says.
    """
    known = [r for r in rows if math.isfinite(r.cost)]
    if not known:
        return ""
    left, right, top, bottom = 44, WIDTH - 16, 12, 230
    ticks = _ticks(min(r.value for r in known), max(r.value for r in known))
    costs = [max(1.0, r.cost) for r in known]
    first = max(i for i, size in enumerate(DURATIONS) if size <= min(costs))
    last = next((i for i, size in enumerate(DURATIONS) if size >= max(costs)), len(DURATIONS) - 1)
    durations = DURATIONS[first : max(last, first + 1) + 1]
    across = _scale(math.log10(durations[0]), math.log10(durations[-1]), left + 12, right - 12)
    y = _scale(ticks[0], ticks[-1], bottom, top)
    parts = [_line(left, y(t), right, y(t), "grid") for t in ticks]
    parts += [_text(left - 6, y(t) + 4, _number(t), "tick", "end") for t in ticks]
    parts += [_line(across(math.log10(d)), top, across(math.log10(d)), bottom, "grid") for d in durations]
    parts += [
        _text(across(math.log10(d)), bottom + 18, _duration(d), "tick", _anchor(across(math.log10(d))))
        for d in durations
    ]
    taken: list[tuple[float, float]] = []
    for row in sorted(known, key=lambda r: not r.chosen):
        cx, cy = across(math.log10(max(durations[0], row.cost))), y(row.value)
        while any(abs(cx - px) < 20 and abs(cy - py) < 20 for px, py in taken):
            cx += 20  # two candidates in one place: side by side rather than hidden
        taken.append((cx, cy))
        name = "choice" if row.chosen else "other"
        parts += [_circle(cx, cy, 10, f"dot {name}"), _text(cx, cy + 4, str(row.key), "key", "middle")]
    return _svg(bottom + 26, title, parts)


def loss_chart(
    train: Sequence[tuple[float, float]],
    validation: Sequence[tuple[float, float]],
    best_step: float | None,
    title: str,
) -> str:
    """Training and validation loss by step, with the step whose weights were kept.

    Args:
        train: (step, loss), in order.
        validation: The same for the validation examples.
        best_step: Step to mark, or None.
        title: What a screen reader says.
    """
    points = [p for p in (*train, *validation) if math.isfinite(p[1])]
    if not points:
        return ""
    left, right, top, bottom = 44, WIDTH - 16, 30, 230
    losses = sorted(p[1] for p in points)
    # the first steps of a training run may be far above the rest; they must not flatten the whole picture
    highest = min(losses[-1], 4 * losses[len(losses) // 2])
    ticks = _ticks(losses[0], highest)
    first, last = min(p[0] for p in points), max(p[0] for p in points)
    x, y = _scale(first, last, left, right), _scale(ticks[0], ticks[-1], bottom, top)
    parts = [_line(left, y(t), right, y(t), "grid") for t in ticks]
    parts += [_text(left - 6, y(t) + 4, _number(t), "tick", "end") for t in ticks]
    steps = [round(t) for t in _ticks(first, last) if first <= t <= last and t == round(t)]
    parts += [_text(x(s), bottom + 18, str(s), "tick", _anchor(x(s))) for s in steps]
    if best_step is not None and first <= best_step <= last:
        parts += [
            _line(x(best_step), top, x(best_step), bottom, "mark"),
            _text(x(best_step), top - 8, f"kept: step {best_step:g}", "tick", _anchor(x(best_step))),
        ]
    for name, curve in (("train", train), ("validation", validation)):
        inside = [(x(s), y(min(v, ticks[-1]))) for s, v in curve if math.isfinite(v)]
        if inside:
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in inside)
            parts.append(f'<polyline class="curve {name}" points="{path}"/>')
    parts += [_circle(x(s), y(min(v, ticks[-1])), 3.5, "point") for s, v in validation if math.isfinite(v)]
    return _svg(bottom + 26, title, parts)


def learning_curve_chart(
    points: Sequence[tuple[float, float]],
    band: Sequence[tuple[float, float, float, float]],
    expected: tuple[float, float, float, float],
    y_title: str,
) -> str:
    """A score by number of examples, doublings equally far apart, with what is expected of twice the data.

    Args:
        points: (examples, score) of each training.
        band: (examples, value, low, high) along the curve.
        expected: The same of twice the data.
        y_title: What stands above the picture.
    """
    left, right, top, bottom = 44, WIDTH - 16, 30, 250
    values = [v for _, v in points] + [v for row in (*band, expected) for v in row[1:]]
    up = _ticks(min(values), max(values))
    along = _scale(math.log(band[0][0]), math.log(expected[0]), left + 12, right - 12)
    y = _scale(up[0], up[-1], bottom, top)

    def x(size: float) -> float:
        return along(math.log(size))

    largest = max(size for size, _ in points)
    halvings = [expected[0] / 2**k for k in range(12) if expected[0] / 2**k >= band[0][0] * 0.99]
    ends = [(s, high) for s, _, _, high in band] + [(s, low) for s, _, low, _ in reversed(band)]
    parts = [_line(left, y(t), right, y(t), "grid") for t in up]
    parts += [_text(left - 6, y(t) + 4, _number(t), "tick", "end") for t in up]
    parts += [_text(x(s), bottom + 18, f"{s:,.0f}", "tick", _anchor(x(s))) for s in halvings]
    parts += [
        _text(left, top - 12, y_title, "tick", "start"), _text(right, bottom + 36, "training examples", "tick", "end"),
        f'<polygon class="band" points="{" ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in ends)}"/>',
        f'<polyline class="curve validation" points="{" ".join(f"{x(s):.1f},{y(v):.1f}" for s, v, *_ in band)}"/>',
        _line(x(largest), top, x(largest), bottom, "mark"), _text(x(largest), top - 12, "now", "tick", "middle"),
        _line(x(expected[0]), y(expected[2]), x(expected[0]), y(expected[3]), "whisker choice"),
        *(_circle(x(s), y(v), 3, "dot other") for s, v in points),
        _circle(x(expected[0]), y(expected[1]), 4.5, "dot choice"),
    ]  # fmt: skip
    return _svg(bottom + 44, f"{y_title} by number of training examples", parts)


def confusion_chart(counts: Sequence[Sequence[int]], labels: Sequence[str], title: str) -> str:
    """Which label was answered (columns) for which right label (rows); darker is a larger share of the row.

    Args:
        counts: Shape (K, K), rows are right labels.
        labels: The K labels, at most about 20.
        title: What a screen reader says.
    """
    longest = max(len(label) for label in labels)
    left = min(150, 14 + 7 * min(longest, 20))
    cell = min(64.0, (WIDTH - left - 4) / len(labels))
    size = cell - 1  # a gap of one unit between cells
    # labels across the top stand upright when their column is too narrow for them
    upright = 7 * min(longest, 20) > cell
    top = (16 + 6.2 * min(longest, 20)) if upright else 24
    parts = []
    for i, row in enumerate(counts):
        total = sum(row) or 1
        y = top + i * cell
        parts.append(_text(left - 6, y + cell / 2 + 4, _short(labels[i]), "tick", "end"))
        for j, count in enumerate(row):
            x = left + j * cell
            name = "hit" if i == j else "miss"
            parts.append(
                f'<rect class="{name}" x="{x:.1f}" y="{y:.1f}" width="{size:.1f}" height="{size:.1f}" '
                f'fill-opacity="{0.06 + 0.7 * count / total:.2f}"/>'
            )
            if count and cell >= 16:
                parts.append(_text(x + cell / 2, y + cell / 2 + 4, str(count), "cell", "middle"))
    for j, label in enumerate(labels):
        x = left + (j + 0.5) * cell
        turn = f' transform="rotate(-90 {x + 4:.1f} {top - 6:.1f})"' if upright else ""
        shift = 4 if upright else 0
        anchor = "start" if upright else "middle"
        parts.append(
            f'<text class="tick" x="{x + shift:.1f}" y="{top - 6:.1f}" text-anchor="{anchor}"{turn}>'
            f"{escape(_short(label))}</text>"
        )
    return _svg(top + cell * len(labels) + 4, title, parts)


# ── pieces ───────────────────────────────────────────────────────────────────────────────────────────────
def _svg(height: float, title: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (end - start) * (value - low) / span


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers that enclose both ends."""
    span = max(high - low, 1e-6 * max(abs(high), abs(low), 1e-6))
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]


def _number(value: float) -> str:
    return f"{value:.6g}"


def _duration(seconds: float) -> str:
    unit, size = next(((u, s) for u, s in UNITS if seconds >= s), ("s", 1.0))
    return f"{seconds / size:g} {unit}"


def _short(label: str) -> str:
    return label if len(label) <= 20 else label[:19] + "…"


def _anchor(x: float) -> str:
    """Text near an edge is set inwards."""
    return "start" if x < 30 else "end" if x > WIDTH - 30 else "middle"


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _circle(x: float, y: float, radius: float, name: str) -> str:
    return f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'


def _text(x: float, y: float, text: str, name: str, anchor: str) -> str:
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
