"""How occult injuries hang together with what the CT shows: the assumption behind every figure.

A network that is shown injuries whose signs it cannot see learns to guess them from the company
they keep. How good such a guess can be is decided here, by the phantom, and not by nature; so it is
printed: in docs/phantom.md, and by ``python -m pipeline.phantom.coupling``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from pipeline.phantom.injuries import CT_VISIBLE, INJURED_FRACTION, OCCURRENCE, Finding

SIGNS: dict[Finding, tuple[str, str]] = {
    Finding.PREVERTEBRAL_HAEMATOMA: (
        "prevertebral tissue thickened by 2.5-9 mm",
        "a thin layer of fluid in tissue of normal thickness",
    ),
    Finding.DISC_INJURY: (
        "disc space gapes, most in front; disc bulges; a flake of the end-plate when severe",
        "fluid in a disc of normal height",
    ),
    Finding.CORD_OEDEMA: (
        "cord swollen by 8-22 %, up to 6 HU darker",
        "bright cord of normal size",
    ),
    Finding.CANAL_STENOSIS: (
        "disc and flavum take 1.5-4 mm from both sides",
        "the same, by tissue as dense as the CSF that it displaces",
    ),
    Finding.INTERSPINOUS_INJURY: (
        "spinous processes fanned, facet joints gape, fat stranded",
        "fluid between processes in their place",
    ),
    Finding.VERTEBRAL_FRACTURE: (
        "body loses height in front, fracture line, trabeculae pressed together along it and under"
        " the end-plate, corner pushed into the canal when severe",
        "marrow oedema in a body of normal shape",
    ),
    Finding.TRANSLATION: (
        "column above slipped by 1.8-5 mm",
        "slipped back into its place: fluid along both long ligaments",
    ),
    Finding.FACET_DISLOCATION: (
        "both joints out (column above slipped by 5-8 mm), or one (turned by 8-16 degrees about the"
        " other, slipped by 2.6-5 mm)",
        "slipped back into place: fluid in the joints",
    ),
}
"""How each finding shows on the CT, and what the MRI alone shows where it is occult."""


@dataclass(frozen=True)
class Coupling:
    """The probabilities of one finding.

    Args:
        finding: Which.
        occurrence: Share of injured patients that have it.
        ct_visible: Share of those whose CT has its sign.
        occult: Share of all patients, sound ones too, that have it without its sign.
        company: Of patients that have it occult, the share with the sign of another injury.
    """

    finding: Finding
    occurrence: float
    ct_visible: float
    occult: float
    company: float


def couplings() -> tuple[Coupling, ...]:
    """All findings, in their order; findings of an injured patient are drawn independently."""
    shown = {f: OCCURRENCE[f] * CT_VISIBLE[f] for f in Finding}
    return tuple(
        Coupling(
            f,
            OCCURRENCE[f],
            CT_VISIBLE[f],
            INJURED_FRACTION * OCCURRENCE[f] * (1 - CT_VISIBLE[f]),
            1 - prod(1 - shown[other] for other in Finding if other is not f),
        )
        for f in Finding
    )


def coupling_table() -> str:
    """Markdown, one row a finding."""
    lines = [
        f"{INJURED_FRACTION:.0%} of seeds are injured. Of those:",
        "",
        "| finding | have it | with its CT sign | CT sign | occult form | occult, of all seeds "
        "| of occult ones, another injury's sign on the CT |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in couplings():
        sign, occult = SIGNS[row.finding]
        lines.append(
            f"| {row.finding.value.replace('_', ' ')} | {row.occurrence:.0%} "
            f"| {row.ct_visible:.0%} | {sign} | {occult} | {row.occult:.1%} "
            f"| {f'{row.company:.0%}' if row.ct_visible < 1 else '-'} |"
        )
    asked = [row.finding.value.replace("_", " ") for row in couplings() if not row.occurrence]
    lines += ["", f"Only where it is asked for (`--finding`): {', '.join(asked)}."]
    return "\n".join(lines)


if __name__ == "__main__":
    print(coupling_table())
