"""Response curves as a picture: plain SVG, so that a page needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.evaluation.counterfactual.evidence import Answer
from pipeline.evaluation.counterfactual.verdict import FOLLOWS, LOST

SIZE_PX = (560, 340)
MARGIN_PX = (60, 120, 20, 50)
"""Left, right (for the names of the lines), top, bottom."""

COLORS = ("#0072b2", "#009e73", "#d55e00", "#cc79a7", "#999999")
"""Told apart by the color-blind (Okabe and Ito 2008)."""

HIGHEST = 1.1


def response_curves(answers: Sequence[Answer]) -> str:
    """SVG of the response against cord minus CSF, one line for each noise, bars for the phantoms.

    Args:
        answers: Without that of the truth.
    """
    gaps = sorted({a.condition.gap_hu for a in answers})
    noises = sorted({a.condition.noise_hu for a in answers})
    span = max(gaps[-1] - gaps[0], 1.0) if gaps else 1.0
    left, right, top, bottom = MARGIN_PX
    width, height = SIZE_PX[0] - left - right, SIZE_PX[1] - top - bottom

    def x(gap: float) -> float:
        return left + width * (gap - gaps[0]) / span

    def y(response: float) -> float:
        return top + height * (1 - min(max(response, 0.0), HIGHEST) / HIGHEST)

    body = [_level(y(v), left, left + width, v) for v in (0.0, LOST, FOLLOWS, 1.0)]
    body += [_text(x(gap), top + height + 18, f"{gap:g}", "middle") for gap in gaps]
    body.append(_text(left + width / 2, SIZE_PX[1] - 8, "cord minus CSF, HU", "middle"))
    body.append(_text(8, 12, "response", "start"))
    for number, noise in enumerate(noises):
        color = COLORS[number % len(COLORS)]
        line = [a for a in answers if a.condition.noise_hu == noise and math.isfinite(a.response)]
        line.sort(key=lambda a: a.condition.gap_hu)
        # beside each other, or the bars of all noises would cover one another
        aside = 3.0 * (number - (len(noises) - 1) / 2)
        points = [(x(a.condition.gap_hu) + aside, a) for a in line]
        body.append(_polyline([(px, y(a.response)) for px, a in points], color))
        body += [
            f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{y(a.least):.1f}" y2="{y(a.most):.1f}"'
            f' stroke="{color}"/>'
            for px, a in points
        ]
        name = _text(left + width + 12, top + 14 + 20 * number, f"noise {noise:g} HU", "start")
        body.append(name.replace("currentColor", color))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE_PX[0]} {SIZE_PX[1]}"'
        f' width="{SIZE_PX[0]}" role="img" font-family="system-ui, sans-serif" font-size="12">'
        "<title>Response to a moved cord by what the CT offers</title>" + "".join(body) + "</svg>"
    )


def _level(y: float, left: float, right: float, value: float) -> str:
    return (
        f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor"'
        f' stroke-opacity="0.3"/>' + _text(left - 8, y + 4, f"{value:g}", "end")
    )


def _polyline(points: Sequence[tuple[float, float]], color: str) -> str:
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="currentColor">{words}</text>'
