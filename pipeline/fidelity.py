"""How much of the patient is left in a synthesis, told without a truth: the fidelity record.

Three questions. Is the bone where the CT has it? Is the CT like those the model was taught on? How
far off may the image be in the places that a trauma reader looks at? Limits come from phantoms the
model was never trained on (`pipeline.reference`); beyond the first there is a warning, far beyond
it, in a figure that the picture as a whole depends on, the synthesis is declined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.bone_edges import EdgeAgreement, edge_agreement
from pipeline.contrast import Contrast
from pipeline.ct_features import ct_features
from pipeline.errors import Declined
from pipeline.geometry import Volume
from pipeline.places import LIGAMENTS, Mask, Places, Region
from pipeline.reference import Limit, Reference
from pipeline.synthesis import Synthesis

CORD, CORD_SIGNAL = "cord", 0.65
"""The cord as it is drawn: what lies in the canal and is darker on T2 than half way from cord (0.4)
to CSF. The CT alone often does not show where it is."""

LEAST_GAIN = 1.4
"""Bone edges that agree no better than this many times chance belong to another picture: declined.
Own pictures of phantoms reach 1.8 and more, those of others 1.3 at most; printed by
``python -m pipeline.evaluation.strangers``. It does not depend on the weights."""

ACCEPTED, NOT_JUDGED = "accepted", "not judged: the support of this model is not calibrated"


@dataclass(frozen=True)
class RegionDoubt:
    """How far off the image may be in one region; means over its pixels, by contrast.

    Args:
        pixels: Of the region.
        spread: Standard deviation of the ensemble, signal relative to CSF = 1; empty without one.
        doubt: Error that the model itself expects.
        half_width: Of the calibrated interval; empty when there is none.
        unsupported: Share of the pixels by their intervals; None when there is no support map.
        marked: Share of the pixels that are hatched, for whatever reason; likewise.
    """

    pixels: int
    spread: Mapping[Contrast, float]
    doubt: Mapping[Contrast, float]
    half_width: Mapping[Contrast, float]
    unsupported: float | None
    marked: float | None


@dataclass(frozen=True)
class Excess:
    """A figure beyond its limit.

    Args:
        name: As in `Fidelity.figures`.
        value: Measured.
        limit: Broken.
        is_decline: Whether nothing may be shown.
    """

    name: str
    value: float
    limit: float
    is_decline: bool

    @property
    def found(self) -> str:
        """What was measured, with its unit."""
        return f"{_WORDS[_kind(self.name)].what.format(where=_where(self.name))} {self.value:.3g}"

    @property
    def short(self) -> str:
        """A few ASCII words for the margin of a slice."""
        sign = "<" if self.value < self.limit else ">"
        short = _WORDS[_kind(self.name)].short.format(where=_where(self.name))
        return f"{short} {self.value:.2g} {sign} {self.limit:.2g}"

    @property
    def expected(self) -> str:
        """The limit."""
        return f"at {'least' if self.value < self.limit else 'most'} {self.limit:.3g}"

    @property
    def remedy(self) -> str:
        """What a person can do about it."""
        return _WORDS[_kind(self.name)].remedy

    def sentence(self) -> str:
        """All of it."""
        return f"{self.found}; expected {self.expected}. {self.remedy}"


@dataclass(frozen=True)
class _Words:
    """How a kind of figure is spoken of; ``{where}`` is the region.

    One with a `floor` is not measured on phantoms: below it, it is declined or warned of.
    """

    what: str
    short: str
    remedy: str
    is_low_bad: bool = False
    declines: bool = False
    floor: float | None = None


_READ_THE_CT = "Read the CT, and an MRI where the question needs one."
_WORDS = {
    "distance": _Words(
        "distance of the CT from the model's training",
        "CT unlike training: distance",
        "Check kernel, metal, motion and HU scale; send a soft-tissue reconstruction, or do without"
        " the pseudo-MRI.",
        declines=True,
    ),
    "edge_dice": _Words(
        "agreement of bone edges with the CT (surface Dice)",
        "bone edges unlike CT: Dice",
        "Compare the vertebrae with the CT before reading anything beside them.",
        is_low_bad=True,
    ),
    "edge_assd": _Words(
        "distance of bone edges from the CT's in mm",
        "bone edges off CT: mm",
        "Compare the vertebrae with the CT before reading anything beside them.",
    ),
    "edge_gain": _Words(
        "agreement of bone edges with the CT, as a multiple of chance",
        "bone edges agree by chance: times",
        "The picture is not that of this CT. Do without it, and tell whoever runs the node.",
        is_low_bad=True,
        declines=True,
        floor=LEAST_GAIN,
    ),
    "edge_count": _Words(
        "vertebrae whose bone edges could be compared with the CT",
        "bone edges not compared: vertebrae",
        "Nothing tells whether the picture is that of this CT. Compare the vertebrae with it.",
        is_low_bad=True,
        floor=1.0,
    ),
    "half_width": _Words(
        "half width of the interval in {where} (CSF = 1)",
        "{where} uncertain: half width",
        f"The CT does not show enough there. {_READ_THE_CT}",
    ),
    "unsupported": _Words(
        "unsupported share of {where}",
        "{where} unsupported: share",
        f"Look at series 9003 for where. {_READ_THE_CT}",
    ),
}


def _kind(name: str) -> str:
    return name.split(".", maxsplit=1)[0]


def _where(name: str) -> str:
    return name.partition(".")[2]


@dataclass(frozen=True)
class Fidelity:
    """What is known about one synthesis without a truth.

    Args:
        edges: By vertebra.
        distance: Mahalanobis distance of the CT's features from the training stacks; None when
            the model has no reference.
        features: As `pipeline.ct_features.ct_features` measures them.
        regions: By `Region` and for the cord; one that the stack does not show is left out.
        excesses: Figures beyond their limits, the worst first; empty when all is usual.
        is_judged: Whether there were limits to judge by.
    """

    edges: Mapping[str, EdgeAgreement]
    distance: float | None
    features: Mapping[str, float]
    regions: Mapping[str, RegionDoubt]
    excesses: tuple[Excess, ...]
    is_judged: bool

    @property
    def figures(self) -> dict[str, float]:
        """What limits are set on, by name."""
        return _figures(self.edges, self.distance, self.regions)

    @property
    def verdict(self) -> str:
        """``"accepted"``, ``"warning: ..."``, ``"declined: ..."``, or that nothing was judged."""
        if not self.is_judged:
            return NOT_JUDGED
        if not self.excesses:
            return ACCEPTED
        kind = "declined" if any(one.is_decline for one in self.excesses) else "warning"
        return f"{kind}: " + " ".join(one.sentence() for one in self.excesses)

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for every excess."""
        return tuple(one.sentence() for one in self.excesses)

    def marked(self, *regions: str) -> float | None:
        """Share of the hatched pixels of regions together; None when it is not known."""
        found = [self.regions[region] for region in regions if region in self.regions]
        shares = [(one.marked, one.pixels) for one in found if one.marked is not None]
        total = sum(pixels for _, pixels in shares)
        return sum(share * pixels for share, pixels in shares) / total if total else None

    def check(self) -> None:
        """Refuse a synthesis that must not be shown.

        Raises:
            Declined: ``fidelity.*``, named after the worst figure.
        """
        for excess in self.excesses:
            if excess.is_decline:
                raise Declined(
                    f"fidelity.{excess.name}",
                    found=excess.found,
                    expected=excess.expected,
                    remedy=excess.remedy,
                )

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {
            "verdict": self.verdict,
            "distance": None if self.distance is None else round(self.distance, 3),
            "edges": {name: _rounded(dataclasses.asdict(one)) for name, one in self.edges.items()},
            "regions": {
                str(region): _rounded(dataclasses.asdict(one))
                for region, one in self.regions.items()
            },
            "features": _rounded(self.features),
            "beyond": [_rounded(dataclasses.asdict(one)) for one in self.excesses],
        }


def measure_fidelity(
    stack: Volume, synthesis: Synthesis, places: Places, reference: Reference | None
) -> Fidelity:
    """Measure a synthesis.

    Args:
        stack: The CT it was made from, HU.
        synthesis: Of that stack.
        places: Of that stack.
        reference: Of the model; None when it has none.
    """
    t2, pixel_mm = synthesis.images[Contrast.T2], stack.grid.spacing_mm[1]
    edges = edge_agreement(stack.values, t2, places, pixel_mm)
    features = ct_features(stack.values[_slices_of(places)])
    distance = None if reference is None else reference.distance(features)
    masks: dict[str, Mask] = {region: places.region(region) for region in Region}
    masks[CORD] = masks[Region.CANAL] & (t2 < CORD_SIGNAL)
    regions = {name: _region_doubt(mask, synthesis) for name, mask in masks.items() if mask.any()}
    limits: Mapping[str, Limit] = {} if reference is None else reference.limits
    figures = _figures(edges, distance, regions) | {"edge_count": float(len(edges))}
    excesses = _excesses(figures, limits) if limits else ()
    return Fidelity(edges, distance, features, regions, excesses, reference is not None)


def _slices_of(places: Places) -> slice:
    """The three slices through the canal; the middle ones when it is not in the stack."""
    count = len(places.regions)
    canal = np.flatnonzero(places.region(Region.CANAL).any(axis=(1, 2)))
    middle = round(float(canal.mean())) if canal.size else count // 2
    return slice(max(middle - 1, 0), min(middle + 2, count))


def _region_doubt(mask: Mask, synthesis: Synthesis) -> RegionDoubt:
    support = synthesis.support
    widths = {} if support is None else support.half_width
    return RegionDoubt(
        pixels=int(mask.sum()),
        spread={name: float(v[mask].mean()) for name, v in synthesis.spread.items()},
        doubt={name: float(v[mask].mean()) for name, v in synthesis.doubt.items()},
        half_width={name: float(v[mask].mean()) for name, v in widths.items()},
        unsupported=None if support is None else float(support.unsupported[mask].mean()),
        marked=None if support is None else float(support.marked[mask].mean()),
    )


def _figures(
    edges: Mapping[str, EdgeAgreement],
    distance: float | None,
    regions: Mapping[str, RegionDoubt],
) -> dict[str, float]:
    figures = {} if distance is None else {"distance": distance}
    if edges:
        # The median: a fused or broken vertebra is a finding, not a failure of the model.
        figures["edge_dice"] = float(np.median([one.dice for one in edges.values()]))
        figures["edge_assd"] = float(np.median([one.assd_mm for one in edges.values()]))
        figures["edge_gain"] = float(np.median([one.gain for one in edges.values()]))
    for region, one in regions.items():
        if one.half_width:
            figures[f"half_width.{region}"] = max(one.half_width.values())
        if one.unsupported is not None:
            figures[f"unsupported.{region}"] = one.unsupported
    return figures


def _excesses(figures: Mapping[str, float], limits: Mapping[str, Limit]) -> tuple[Excess, ...]:
    found = []
    for name, value in figures.items():
        words = _WORDS[_kind(name)]
        if words.floor is not None and value < words.floor:
            found.append(Excess(name, value, words.floor, words.declines))
            continue
        limit = limits.get(name)
        if limit is None or not limit.is_beyond(value, limit.warning):
            continue
        declined = words.declines and limit.is_beyond(value, limit.decline)
        broken = limit.decline if declined else limit.warning
        found.append(Excess(name, value, broken, declined))
    # sorted keeps the order of the figures, which is that of their weight
    return tuple(sorted(found, key=lambda one: not one.is_decline))


def is_low_bad(figure: str) -> bool:
    """Whether small values of a figure are the bad ones."""
    return _WORDS[_kind(figure)].is_low_bad


OUTLINED = "DASHED LINE: BRIGHT ON STIR, MAY BE INVENTED"
"""What the margin says of `pipeline.hyperintensity`: no evidence for an injury, nor against one."""


NARROWED = "CANAL MAY BE NARROWER THAN SHOWN"
"""What the margin always says: the model draws CSF around a cord that has none (ADR 22)."""

MOST_NAMED = 2
"""Stretches that fit beside it."""

SHARES = "UNSUPPORTED (9003)"
"""How the line of the margin begins that tells how much of a region is hatched."""


def foot_notes(
    fidelity: Fidelity,
    *,
    has_outlines: bool = False,
    narrowed: Sequence[str] = (),
    shortfall: str | None = None,
) -> tuple[str, ...]:
    """What the margin of every slice says about support and limits, at most four short lines.

    Args:
        fidelity: Of the synthesis.
        has_outlines: Some slices have an outline (`pipeline.hyperintensity`).
        narrowed: Stretches of faint CSF (`pipeline.narrowing`), by the discs at their ends; empty
            where nobody can tell.
        shortfall: Why shares would say more than is known; it stands in their place.
    """
    shares = {
        "canal": fidelity.marked(Region.CANAL),
        "discs": fidelity.marked(Region.DISCS),
        "ligaments": fidelity.marked(*LIGAMENTS),
    }
    told = [f"{name} {share:.0%}" for name, share in shares.items() if share is not None]
    first = f"{SHARES}: {', '.join(told)}" if told else "SUPPORT BY THE CT NOT KNOWN"
    if shortfall is not None:
        first = shortfall
    notes = [first, NARROWED + (f", MOST AT {_listed(narrowed)}" if any(narrowed) else "")]
    if has_outlines:
        notes.append(OUTLINED)
    if fidelity.excesses:
        more = len(fidelity.excesses) - 1
        notes.append(f"WARNING {fidelity.excesses[0].short}" + (f" (+{more})" if more else ""))
    return tuple(notes)


def _listed(names: Sequence[str]) -> str:
    """As many as the margin holds."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" (+{more})" if more > 0 else "")


def _rounded(value: Any) -> Any:
    """JSON-ready: four digits after the point are more than any of it deserves."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {str(name): _rounded(one) for name, one in value.items()}
    return value
