"""The evaluation as JSON, as Markdown for the model card, and as one HTML page with pictures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import labeling
from pipeline.contrast import ALL_CONTRASTS, Contrast, SeriesKind
from pipeline.evaluation.canal import CanalScore
from pipeline.evaluation.effaced import Effaced
from pipeline.evaluation.injuries import Detection, Share
from pipeline.evaluation.pages import Row, finite, html_table, markdown_table, page, words
from pipeline.evaluation.reference_free import ReferenceFree
from pipeline.evaluation.run import Evaluation, Pictures, RealNeck
from pipeline.evaluation.scores import Score, table
from pipeline.evaluation.targets import (
    Target,
    baseline_targets,
    canal_targets,
    detection_targets,
    neck_targets,
)
from pipeline.geometry import Float32
from pipeline.phantom import CT_VISIBLE
from pipeline.support import hatched

SOFT_WINDOW_HU = (-135.0, 215.0)
WHITE_SIGNAL = 0.9
WHITE_ERROR = 0.5
GAMMA = 0.8
JPEG_QUALITY = 82


def as_json(found: Evaluation) -> dict[str, Any]:
    """Every figure, without the pictures; NaN becomes null."""
    document: dict[str, Any] = {
        "model": dict(found.model),
        "facts": dict(found.facts),
        "scores": {name: [asdict(s) for s in scores] for name, scores in found.scores.items()},
        "stepped": {name: [asdict(s) for s in scores] for name, scores in found.stepped.items()},
        "contrasts": [_contrast_row(row) for row in tissue_contrasts(found.scores["model"])],
        "canal": asdict(found.canal),
        "effaced": asdict(found.effaced),
        "continuity": asdict(found.continuity),
        "detections": [asdict(d) for d in found.detections],
        "ct_visible_share_assumed": {f.value: share for f, share in CT_VISIBLE.items()},
        "uninjured": [asdict(u) for u in found.uninjured],
        "real": None if found.real is None else asdict(found.real.measures),
        "stir_limits": stir_limits(found.uninjured),
        "targets": [asdict(t) | {"is_reached": t.is_reached} for t in targets(found)],
    }
    cleaned: dict[str, Any] = finite(document)
    return cleaned


def _contrast_row(row: tuple[str, str, float, float]) -> dict[str, Any]:
    """One row of `tissue_contrasts` by name."""
    return dict(zip(("name", "image", "true", "predicted"), row, strict=True))


def tissue_contrasts(scores: Sequence[Score]) -> list[tuple[str, str, float, float]]:
    """Name, image, true and predicted difference of mean signal between neighboring tissues."""
    means = {(s.contrast, s.tissue): s for s in scores}
    rows = []
    for contrast in ALL_CONTRASTS:
        for name, bright, dark in (
            ("CSF - cord", "CSF", "CORD"),
            ("nucleus - annulus", "NUCLEUS", "ANNULUS"),
            ("marrow - cortex", "MARROW", "CORTEX"),
            ("CSF - ligament", "CSF", "LIGAMENT"),
        ):
            a, b = means.get((contrast, bright)), means.get((contrast, dark))
            if a is not None and b is not None:
                rows.append((name, contrast.value, a.true_mean - b.true_mean, a.mean - b.mean))
    return rows


def stir_limits(uninjured: Sequence[ReferenceFree]) -> dict[str, float]:
    """Brightest 99th percentile of STIR among the uninjured phantoms, by tissue."""
    limits: dict[str, float] = {}
    for one in uninjured:
        for tissue, value in one.stir_p99.items():
            limits[tissue] = max(limits.get(tissue, 0.0), value)
    return limits


def targets(found: Evaluation) -> list[Target]:
    """Every target with what was measured."""
    return [
        *baseline_targets(found.scores, "model"),
        *(baseline_targets(found.stepped, "model") if found.stepped else ()),
        *canal_targets(found.canal, found.effaced),
        *detection_targets(found.detections),
        *(neck_targets(found.real.measures, stir_limits(found.uninjured)) if found.real else ()),
    ]


def targets_table(rows: Sequence[Target]) -> str:
    """Markdown of targets."""
    return markdown_table(
        ("target", "measured", "limit", "reached", ""),
        (
            (
                target.name,
                f"{target.value:.3g}",
                f"{'at most' if target.at_most else 'at least'} {target.limit:.3g}",
                target.verdict,
                target.note,
            )
            for target in rows
        ),
    )


def as_markdown(found: Evaluation) -> str:
    """All tables, for the model card and the docs."""
    return "\n\n".join(f"### {title}\n\n{note}\n\n{text}" for title, note, text in _parts(found))


def _parts(found: Evaluation) -> list[tuple[str, str, str]]:
    """Title, what the reader must know, Markdown table."""
    facts = found.facts
    judged = f"Held-out phantoms, seeds {_seeds(facts['judged'])}. "
    method = f"Mask: {facts['mask']}. Normalization: {facts['normalization']}. {facts['noise']}. "
    lookup = (
        "*lookup*: mean signal of each HU, learned from training phantoms"
        f" {_seeds(facts['lookup'])}; *codec only*: the truth encoded and decoded."
    )
    parts = [
        ("Targets", _target_note(), targets_table(targets(found))),
        ("Tissues", judged + method + lookup, table(found.scores)),
    ]
    if found.stepped:
        parts.append(
            ("Many steps", f"{facts['stepped']}. One seeded noise field.", table(found.stepped))
        )
    parts += [
        (
            "Contrasts",
            "Difference of mean signal; a predicted one below the true one has faded.",
            markdown_table(
                ("tissues", "image", "true", "predicted", "share"),
                (
                    (name, image, f"{a:.2f}", f"{b:.2f}", f"{b / a:.0%}" if a else "")
                    for name, image, a, b in tissue_contrasts(found.scores["model"])
                ),
            ),
        ),
        *canal_parts(found.canal, found.effaced),
        ("Continuity", "Ratio of predicted to true, and rank correlation.", _continuity(found)),
        ("Injuries", _injury_note(found), injuries_table(found.detections)),
        ("Measures without a truth", _free_note(), _free(found.uninjured, found.real)),
    ]
    return parts


def _target_note() -> str:
    return (
        "What is asked of a model that is shown to anybody. *reached* goes by the measured value;"
        " in brackets how many it rests on and the exact 95% limit that so few leave open. Tissues"
        " of the spine are the sound ones without the flaval ligament, which is scored nowhere; the"
        " tissues of lesions are counted apart. The rows on CSF go by points of the canal half a"
        " millimeter apart, which are not independent, so that no exact limit stands there."
    )


def _seeds(value: object) -> str:
    first, stop = value if isinstance(value, list | tuple) else (0, 0)
    return f"{first} to {int(stop) - 1}"


def canal_parts(canal: CanalScore, effaced: Effaced) -> list[tuple[str, str, str]]:
    """Title, note and table of canal and cord, and of the rows without CSF."""
    return [
        ("Canal and cord", _canal_note(), _canal(canal)),
        ("CSF where there is none", _effaced_note(), effaced_table(effaced)),
    ]


def _canal_note() -> str:
    return (
        "Measured in the pseudo-T2 alone, in the slice through the canal. *AP*: mean absolute"
        " difference to the phantom's bony diameter; *AP, true T2*: the same measurement on the"
        " true T2, so what the measurement itself is off; *AP, added*: pseudo-T2 against true T2,"
        " so what the model adds. *Cord*: mean absolute error of its center where rows show cord"
        " in CSF; *middle*: guessing the middle of the canal, in all rows with a cord. *resolved*:"
        " rows that show cord in CSF, of those where the true T2 shows it. The CT shows the cord"
        " when it is at least 15 HU above CSF; all CTs have 10 HU of noise."
    )


def _canal(canal: CanalScore) -> str:
    rows: list[Row] = [
        (
            f"AP at {name}, mm",
            f"{canal.ap_error_mm[name]:.2f}",
            f"true T2 {canal.truth_ap_error_mm[name]:.2f}",
            f"added {canal.ap_error_like_truth_mm[name]:.2f}",
        )
        for name in canal.ap_error_mm
    ]
    rows.append(("APs that could be measured", f"{canal.ap_measured:.1%}", "", ""))
    for key, where in (("shown", "CT shows it"), ("hidden", "CT does not")):
        rows.append(
            (
                f"cord center, mm, {where} ({canal.phantoms[key]} phantoms)",
                f"{canal.cord_error_mm[key]:.2f}",
                f"95% {canal.cord_error_p95_mm[key]:.2f}",
                f"middle {canal.middle_error_mm[key]:.2f}",
            )
        )
        name = f"rows resolved, of those of the true T2, {where}"
        rows.append((name, f"{canal.resolved[key]:.1%}", "", ""))
    rows.append(("rows resolved in the true T2", f"{canal.resolved_truth:.1%}", "", ""))
    return markdown_table(("measure", "model", "", ""), rows)


def _effaced_note() -> str:
    return (
        "Rows in which the true T2 shows no CSF on one side of the cord at least: narrowed,"
        " slipped, filled by a swollen cord, or with a cord that lies at a wall. CSF that the"
        " pseudo-T2 shows on both sides there is drawn from habit, and hides a compression. Where"
        " the CT does not tell cord from CSF, nothing in it says at which wall the cord lies."
        " *fainter column*: how much brighter than the"
        " cord it is, CSF = 1. *hatched*: mean share of the canal, wall to wall, that the support"
        " map marks. *hatched as faint*: since both columns together are fainter than usual."
        " *label map*: rows with less than half a millimeter of CSF on one side; where"
        " the true T2 is resolved there, fat or the gray matter of the cord passed for a column, so"
        " that the measurement misses most of what is narrow."
    )


def effaced_table(effaced: Effaced) -> str:
    """Markdown."""

    def share(s: Share) -> str:
        return f"{s.value:.0%}, {s.hits} of {s.of} rows" if s.of else "no rows"

    def number(value: float, form: str) -> str:
        return format(value, form) if math.isfinite(value) else ""

    return markdown_table(
        ("measure", "pseudo-T2", "true T2"),
        (
            (f"CSF on both sides ({effaced.phantoms} phantoms)", share(effaced.false_csf), "none"),
            ("the same where the CT shows the cord", share(effaced.false_csf_shown), "none"),
            ("fainter column", number(effaced.step_drawn, ".2f"), number(effaced.step_true, ".2f")),
            ("CSF on both sides, and not hatched as faint", share(effaced.unmarked), ""),
            ("hatched as faint", share(effaced.faint), ""),
            ("hatched as faint in all other rows", share(effaced.faint_elsewhere), ""),
            ("hatched in these rows", number(effaced.hatched, ".0%"), ""),
            ("hatched in the other rows", number(effaced.hatched_elsewhere, ".0%"), ""),
            ("CSF on both sides, of the rows without it in the label map",
             share(effaced.unlabeled_drawn), share(effaced.unlabeled_true)),
            ("fainter column there", number(effaced.unlabeled_step_drawn, ".2f"),
             number(effaced.unlabeled_step_true, ".2f")),
        ),
    )  # fmt: skip


def _continuity(found: Evaluation) -> str:
    rows = [
        (c.value, f"{found.continuity.step_ratio[c]:.2f}", f"{found.continuity.level_order[c]:.2f}")
        for c in ALL_CONTRASTS
    ]
    head = ("image", "difference of neighboring slices", "marrow by level, C3 to T1")
    return markdown_table(head, rows)


def _injury_note(found: Evaluation) -> str:
    assumed = ", ".join(f"{f.value} {share:.0%}" for f, share in CT_VISIBLE.items() if share < 1)
    return (
        "A region above a threshold counts as found. Regions come from the uninjured twin."
        " Stenosis and translation have no signal of their own: *lost CSF* is 1 less the faintest"
        " CSF at the disc, *step* how far the backs of the bodies above and below it are apart;"
        " levels beside an injury that changes shapes are not counted."
        f" Thresholds from other phantoms (seeds {_seeds(found.facts['tuning'])}). *visible*: with"
        " a CT sign; *occult*: without, where a finding would be invented or missed. Exact 95%"
        " limits; levels of one patient count as independent, which makes them too narrow. *true*:"
        " the same on the true image, the ceiling. The share of findings with a CT sign is"
        f" assumed: {assumed}."
    )


def injuries_table(detections: Sequence[Detection]) -> str:
    """Markdown."""

    def share(s: Share) -> str:
        return f"{s.value:.2f} ({s.low:.2f}-{s.high:.2f}), n {s.of}" if s.of else "n 0"

    def area(value: float) -> str:
        return f"{value:.2f}" if math.isfinite(value) else ""

    return markdown_table(
        (
            "finding", "image", "threshold", "sensitivity, visible", "specificity",
            "AUC, visible", "sensitivity, occult", "AUC, occult",
        ),
        (
            (
                d.finding.value.replace("_", " "), d.image, f"{d.statistic} > {d.threshold:.2f}",
                share(d.sensitivity_visible), share(d.specificity), area(d.auc_visible),
                share(d.sensitivity_occult), area(d.auc_occult),
            )
            for d in detections
        ),
    )  # fmt: skip


def _free_note() -> str:
    return (
        "The same measures on uninjured held-out phantoms (median, and the range) and on the real"
        " neck. The real neck is a tuning case that was looked at during development, no test."
        " *dark bone edges*: share of the CT's bone-edge pixels with a T2 below 0.2 beside them;"
        " in soft tissue is chance. STIR: 99th percentile of what the CT shows as this tissue."
    )


def _free(uninjured: Sequence[ReferenceFree], real: RealNeck | None) -> str:
    def values(one: ReferenceFree) -> dict[str, float]:
        own = {
            "rows resolved C1 to T3": one.resolved,
            "CSF peak, median of rows": one.csf_peak,
            "T2 in the canal, 95th percentile": one.csf_p95,
            "dark bone edges": one.dark_edges,
            "dark in soft tissue": one.dark_soft,
            "T2 at bone edges": one.edge_signal,
        }
        own |= {f"STIR, {name}": value for name, value in one.stir_p99.items()}
        return own | {f"change under 20 HU of noise, {c.value}": v for c, v in one.change.items()}

    phantoms = [values(one) for one in uninjured]
    neck = {} if real is None else values(real.measures)
    names = list(dict.fromkeys([name for one in [*phantoms, neck] for name in one]))
    rows = []
    for name in names:
        known = [one[name] for one in phantoms if name in one]
        spread = f"{np.median(known):.3f} ({min(known):.3f} to {max(known):.3f})" if known else ""
        rows.append((name, spread, f"{neck[name]:.3f}" if name in neck else ""))
    return markdown_table(("measure", f"{len(phantoms)} uninjured phantoms", "real neck"), rows)


def as_html(found: Evaluation) -> str:
    """One page that needs nothing else: tables, and pictures as data URLs."""
    name = f"{found.model['name']} {found.model['version']}"
    body = [
        f"<h1>Evaluation of {escape(name)}</h1>",
        "<p class=warn><strong>Phantom figures say how well the phantom was learned. They are no"
        " claim about patients. Research only.</strong></p>",
        f"<p>Model digest <code>{escape(found.model['digest'][:16])}</code>;"
        f" {escape(str(found.facts['device']))}; {found.facts['seconds']} s.</p>",
    ]
    for title, note, text in _parts(found):
        body.append(f"<h2>{escape(title)}</h2><p>{words(note)}</p>{html_table(text)}")
    body.append("<h2>Pictures of phantoms</h2><p>The slice through the canal. Errors: black is 0,"
                f" white is {WHITE_ERROR}.</p>")  # fmt: skip
    body += [_phantom_figure(one) for one in found.pictures]
    if found.real is not None:
        body.append("<h2>Pictures of the real neck</h2><p>CT, pseudo-T2, pseudo-STIR of every"
                    " slice, from the patient's left to the right.</p>")  # fmt: skip
        body += _real_figures(found.real)
    return page(f"Evaluation of {name}", body)


def _phantom_figure(one: Pictures) -> str:
    cells = [("CT", _gray(one.ct, *SOFT_WINDOW_HU, gamma=1.0))]
    for contrast in ALL_CONTRASTS:
        truth = one.truth[contrast]
        cells.append((f"true {contrast.value}", _gray(truth, 0, WHITE_SIGNAL)))
        for name, images in one.images.items():
            cells.append((f"{name} {contrast.value}", _gray(images[contrast], 0, WHITE_SIGNAL)))
            if name == "model":
                error = np.abs(images[contrast] - truth)
                cells.append((f"error {contrast.value}", _gray(error, 0, WHITE_ERROR, gamma=1.0)))
    return _figure(f"Phantom {one.seed}: {one.findings.replace('_', ' ')}", cells)


def _real_figures(neck: RealNeck) -> Iterator[str]:
    """A patient's pictures, marked as delivered ones are: they may be copied from the page."""
    shown = {
        f"pseudo-{contrast}": _marked(neck.images[contrast], SeriesKind(contrast))
        for contrast in ALL_CONTRASTS
    }
    if neck.support is not None:
        veiled = hatched(neck.images[Contrast.T2], neck.support.marked)
        name = "pseudo-T2, hatched where the CT does not support it"
        shown[name] = _marked(veiled, SeriesKind.SUPPORT)
    for k, ct in enumerate(neck.stack):
        cells = [("CT", _gray(ct, *SOFT_WINDOW_HU, gamma=1.0))]
        cells += [(name, images[k]) for name, images in shown.items()]
        yield _figure(f"Real neck, slice {k + 1} of {len(neck.stack)}", cells)


def _marked(signal: Float32, kind: SeriesKind) -> NDArray[np.uint8]:
    pixels = labeling.mark(labeling.to_pixels(signal), kind).astype(np.float32)
    return _gray(pixels, 0, WHITE_SIGNAL * labeling.SIGNAL_SCALE)


def _figure(caption: str, cells: Sequence[tuple[str, NDArray[np.uint8]]]) -> str:
    pictures = "".join(
        f'<span><img alt="{escape(name)}" src="{_data_url(image)}">{escape(name)}</span>'
        for name, image in cells
    )
    return f"<figure><figcaption>{escape(caption)}</figcaption><div>{pictures}</div></figure>"


def _data_url(image: NDArray[np.uint8]) -> str:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def _gray(values: Float32, black: float, white: float, gamma: float = GAMMA) -> NDArray[np.uint8]:
    share = np.clip((values - black) / (white - black), 0, 1)
    out: NDArray[np.uint8] = np.rint(255 * share**gamma).astype(np.uint8)
    return out
