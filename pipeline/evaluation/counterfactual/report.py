"""The results as Markdown for docs/counterfactual.md, as JSON, and as one page with the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

import numpy as np

from pipeline.evaluation.counterfactual.curves import response_curves
from pipeline.evaluation.counterfactual.evidence import SHIFTS_MM, TRUTH, answers
from pipeline.evaluation.counterfactual.occult import Marked
from pipeline.evaluation.counterfactual.run import Results
from pipeline.evaluation.counterfactual.verdict import verdicts
from pipeline.evaluation.counterfactual.visible import ELSEWHERE_MM, ELSEWHERE_PERCENTILE
from pipeline.evaluation.pages import Row, finite, html_table, markdown_table, page, words
from pipeline.evaluation.scores import NOISE_HU

UNCALIBRATED = "not calibrated"


def as_json(results: Results, model: Mapping[str, str]) -> dict[str, Any]:
    """Every figure; NaN becomes null."""
    document: dict[str, Any] = {
        "model": dict(model),
        "seeds": [results.plan.seeds.start, results.plan.seeds.stop],
        "is_calibrated": results.is_calibrated,
        "seconds": results.seconds,
        "verdicts": [asdict(v) | {"share": v.share} for v in verdicts(results)],
        "occult": [asdict(row) for row in results.occult],
        "visible": [asdict(row) | {"response": row.response} for row in results.visible],
        "evidence": [asdict(row) for row in results.evidence if row.condition != TRUTH],
        "evidence_of_truth": [
            {key: value for key, value in asdict(row).items() if key != "condition"}
            for row in results.evidence
            if row.condition == TRUTH
        ],
    }
    cleaned: dict[str, Any] = finite(document)
    return cleaned


def as_markdown(results: Results, model: Mapping[str, str]) -> str:
    """All tables, with what the reader must know beside each."""
    seeds = results.plan.seeds
    head = (
        f"Model {model['name']} {model['version']}, digest `{model['digest'][:16]}`,"
        f" {'calibrated' if results.is_calibrated else UNCALIBRATED}; phantoms {seeds[0]} to"
        f" {seeds[-1]}; {results.seconds:.0f} s. A phantom is no patient."
    )
    return "\n\n".join(
        (head, *(f"### {title}\n\n{note}\n\n{text}" for title, note, text in _parts(results)))
    )


def _parts(results: Results) -> list[tuple[str, str, str]]:
    """Title, what the reader must know, Markdown table."""
    return [
        (
            "Passed",
            "Limits and their reasons: `pipeline.evaluation.counterfactual.verdict`.",
            _verdicts(results),
        ),
        ("Occult", _OCCULT, _occult(results)),
        ("Visible", _VISIBLE, _visible(results)),
        ("Evidence", _EVIDENCE, _evidence(results)),
    ]


_OCCULT = (
    "The same CT, with and without a lesion in the MRI; means over the phantoms. *rest*: the rest"
    " of the tissues that the lesion lies in; *body*: everything but air. An occult lesion cannot"
    " be doubted more than its tissue; a map that marks the whole body passes and says nothing."
    " Half widths and signals are of the STIR, CSF = 1; CT with"
    f" {NOISE_HU:g} HU of noise."
)
_VISIBLE = (
    "The CT sign added, against the sound twin under the same noise; means over the phantoms, the"
    " response with its range. *elsewhere*: absolute change of T2 and STIR more than"
    f" {ELSEWHERE_MM:g} mm from all that truly differs, and its percentile {ELSEWHERE_PERCENTILE:g}"
    " (the worst phantom's)."
)
_EVIDENCE = (
    f"The cord of an uninjured phantom moved by {', '.join(f'{s:g}' for s in SHIFTS_MM)} mm to the"
    " back. *response*: slope of the measured center on the true one, mean of the phantoms and"
    " range; *resolved*: points that show cord in CSF, the others are left out; *margin"
    " unsupported*: of the cord's margin with the cord in its place."
)


def _verdicts(results: Results) -> str:
    rows = [
        (v.test, v.asked, f"{v.passed} of {v.of}", f"{v.share:.0%}" if v.of else _why(results))
        for v in verdicts(results)
    ]
    return markdown_table(("test", "asked", "passed", "share"), rows)


def _why(results: Results) -> str:
    """Why a demand could not be judged."""
    return "no case" if results.is_calibrated else UNCALIBRATED


def _occult(results: Results) -> str:
    rows: list[Row] = []
    for finding in results.plan.findings:
        group = [row for row in results.occult if row.finding == finding]
        if not group:
            continue
        true, drawn = (np.mean([getattr(r, n) for r in group]) for n in ("true_stir", "drawn_stir"))
        rows.append(
            (
                finding.value.replace("_", " "),
                f"{sum(row.is_identical for row in group)} of {len(group)}",
                f"{true:.2f}",
                f"{drawn:.2f}",
                *_marks([row.marked for row in group if row.marked]),
            )
        )
    head = (
        "finding", "output identical", "true", "drawn", "half width", "half width, rest",
        "true signal outside it", "by", "unsupported", "unsupported, rest", "unsupported, body",
    )  # fmt: skip
    return markdown_table(head, rows)


def _marks(places: Sequence[Marked]) -> Row:
    """What the support map says, seven cells."""
    if not places:
        return (UNCALIBRATED, *[""] * 6)
    mean = {name: float(np.mean([asdict(p)[name] for p in places])) for name in asdict(places[0])}
    return (
        f"{mean['half_width']:.2f}",
        f"{mean['half_width_rest']:.2f}",
        f"{mean['outside']:.0%}",
        f"{mean['beyond']:.2f}",
        f"{mean['unsupported']:.0%}",
        f"{mean['unsupported_rest']:.0%}",
        f"{mean['unsupported_body']:.0%}",
    )


def _visible(results: Results) -> str:
    rows = []
    for finding in results.plan.findings:
        group = [row for row in results.visible if row.finding == finding]
        if not group:
            continue
        responses = [row.response for row in group]
        rows.append(
            (
                finding.value.replace("_", " "),
                f"{len(group)}",
                f"{np.mean([row.true_change for row in group]):.3f}",
                f"{np.mean([row.change for row in group]):z.3f}",
                _ranged(float(np.mean(responses)), min(responses), max(responses)),
                f"{np.mean([row.elsewhere for row in group]):.4f}",
                f"{max(row.elsewhere_most for row in group):.3f}",
            )
        )
    head = (
        "finding", "phantoms", "true change", "drawn change", "response", "elsewhere, mean",
        "elsewhere, most",
    )  # fmt: skip
    return markdown_table(head, rows)


def _evidence(results: Results) -> str:
    rows = []
    for answer in answers(results.evidence):
        is_truth = answer.condition == TRUTH
        marked = answer.unsupported
        rows.append(
            (
                "true T2" if is_truth else f"{answer.condition.gap_hu:g}",
                "" if is_truth else f"{answer.condition.noise_hu:g}",
                _ranged(answer.response, answer.least, answer.most),
                f"{answer.error_mm:.2f}",
                f"{answer.resolved:.0%}",
                f"{marked:.0%}" if marked is not None else "" if is_truth else _unmapped(results),
            )
        )
    head = (
        "cord - CSF, HU", "noise, HU", "response", "center error, mm", "resolved",
        "margin unsupported",
    )  # fmt: skip
    return markdown_table(head, rows)


def _unmapped(results: Results) -> str:
    return "not mapped" if results.is_calibrated else UNCALIBRATED


def _ranged(mean: float, low: float, high: float) -> str:
    return f"{mean:z.2f} ({low:z.2f} to {high:z.2f})"


def as_html(results: Results, model: Mapping[str, str]) -> str:
    """One page that needs nothing else: the tables, and the response curves as SVG."""
    name = f"{model['name']} {model['version']}"
    body = [
        f"<h1>Counterfactual tests of {escape(name)}</h1>",
        "<p class=warn><strong>Phantom figures are no claim about patients. Research only."
        "</strong></p>",
        f"<p>Model digest <code>{escape(model['digest'][:16])}</code>; phantoms"
        f" {results.plan.seeds[0]} to {results.plan.seeds[-1]}; {results.seconds:.0f} s.</p>",
    ]
    for title, note, text in _parts(results):
        body.append(f"<h2>{escape(title)}</h2><p>{words(note)}</p>")
        if title == "Evidence":
            shown = [a for a in answers(results.evidence) if a.condition != TRUTH]
            body.append(f"<figure>{response_curves(shown)}</figure>")
        body.append(html_table(text))
    return page(f"Counterfactual tests of {name}", body)
