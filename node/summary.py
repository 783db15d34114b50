"""What completion and selection need to know of one instance, read from its header alone.

The summary goes into the ledger as JSON. It holds geometry, known words and one flag, never a text
that somebody typed: it may name a patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from node import words
from pipeline.errors import Declined
from pipeline.headers import frames
from pipeline.slices import SliceGeometry


class Pixels(StrEnum):
    """Whether an instance has the pixel data that its header promises."""

    PRESENT = "present"
    ABSENT = "absent"
    TRUNCATED = "truncated"


@dataclass(frozen=True)
class Refusal:
    """Why no slice can be made of an instance: the pipeline's `Declined`, as it goes on record."""

    code: str
    found: str
    expected: str
    remedy: str


@dataclass(frozen=True)
class InstanceSummary:
    """The header of one instance, as far as it matters before pixels are read.

    Args:
        modality: (0008,0060); `OTHER` for an unknown word, as in the next three.
        image_type: (0008,0008), upper case; empty when absent.
        kernel: Convolution Kernel (0018,1210), values joined by a backslash; empty when absent.
        body_part: (0018,0015), upper case; empty when absent.
        is_trauma: A trauma word of the settings stands in the study or series description.
        pixels: Whether Pixel Data (7FE0,0010) is there in full.
        slices: Where its slices lie: one for CT, one per frame for Enhanced CT; none when refused.
        refusal: Why the pipeline would not read it.
    """

    modality: str
    image_type: tuple[str, ...]
    kernel: str
    body_part: str
    is_trauma: bool
    pixels: Pixels
    slices: tuple[SliceGeometry, ...]
    refusal: Refusal | None

    def to_json(self) -> dict[str, Any]:
        """For the ledger."""
        return {
            "modality": self.modality,
            "image_type": list(self.image_type),
            "kernel": self.kernel,
            "body_part": self.body_part,
            "is_trauma": self.is_trauma,
            "pixels": str(self.pixels),
            "slices": [_slice_to_json(one) for one in self.slices],
            "refusal": vars(self.refusal) if self.refusal else None,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any] | None) -> InstanceSummary:
        """What `to_json` wrote; of None, a summary that says nothing yet."""
        if fields is None:
            return UNREAD
        refusal = fields["refusal"]
        return cls(
            modality=fields["modality"],
            image_type=tuple(fields["image_type"]),
            kernel=fields["kernel"],
            body_part=fields["body_part"],
            is_trauma=fields["is_trauma"],
            pixels=Pixels(fields["pixels"]),
            slices=tuple(_slice_from_json(one) for one in fields["slices"]),
            refusal=Refusal(**refusal) if refusal else None,
        )


UNREAD: Final = InstanceSummary(
    modality="",
    image_type=(),
    kernel="",
    body_part="",
    is_trauma=False,
    pixels=Pixels.ABSENT,
    slices=(),
    refusal=Refusal(
        "header.unread",
        "a header that has not been read yet",
        "a series that is complete",
        "Wait for the series to be complete.",
    ),
)
"""Of an instance between its arrival and the completion of its series."""


def summarize(header: Dataset, pixels: Pixels, trauma_words: Sequence[str]) -> InstanceSummary:
    """The summary of one instance; never fails, whatever the header holds.

    Args:
        header: The data set up to its pixel data.
        pixels: What was found behind it.
        trauma_words: Compared without regard to case, anywhere in the descriptions, since
            German and Dutch write them as parts of longer words.
    """
    slices: tuple[SliceGeometry, ...] = ()
    refusal: Refusal | None = None
    try:
        slices = tuple(_vetted(frame.geometry) for frame in frames([header]))
    except Declined as declined:
        found = _retold(declined, header)
        refusal = Refusal(declined.code, found, declined.expected, declined.remedy)
    except Exception as error:
        # A hostile header can break any reader; the type of the error tells enough and no values.
        refusal = Refusal(
            "header.unreadable",
            f"a header that could not be interpreted ({type(error).__name__})",
            "a CT header by PS3.3 A.3 or A.38",
            "Send the series again from its source.",
        )
    descriptions = " ".join(
        _text(header, keyword) for keyword in ("StudyDescription", "SeriesDescription")
    ).casefold()
    return InstanceSummary(
        modality=modality_of(header),
        image_type=tuple(
            words.known(word, words.IMAGE_TYPES) for word in _words(header, "ImageType") if word
        ),
        kernel=words.kernel(_words(header, "ConvolutionKernel")),
        body_part=_word(header, "BodyPartExamined", words.BODY_PARTS),
        is_trauma=any(word.casefold() in descriptions for word in trauma_words),
        pixels=pixels,
        slices=slices,
        refusal=refusal,
    )


def modality_of(header: Dataset) -> str:
    """Modality (0008,0060), if it is one that may be told; never fails."""
    return _word(header, "Modality", words.MODALITIES)


def _vetted(geometry: SliceGeometry) -> SliceGeometry:
    """The geometry with a frame of reference that is a UID, whatever was typed there."""
    return replace(geometry, frame_of_reference_uid=words.uid(geometry.frame_of_reference_uid))


def _retold(declined: Declined, header: Dataset) -> str:
    """What was found, without the header's own words where the pipeline quotes them."""
    if declined.code == "series.class":
        modality = _word(header, "Modality", words.MODALITIES) or "absent"
        sop_class = UID(_text(header, "SOPClassUID")).name or "absent"
        return f"Modality {modality}, SOP class {sop_class}"
    if declined.code == "pixels.color":
        photometric = _word(header, "PhotometricInterpretation", words.PHOTOMETRICS)
        return f"color or several samples per pixel: {photometric or 'absent'}"
    if declined.code == "pixels.units":
        return "another Rescale Type"
    return declined.found


def _text(header: Dataset, keyword: str) -> str:
    try:
        return str(header.get(keyword) or "")
    except Exception:
        # Undecodable characters must not cost the instance.
        return ""


def _word(header: Dataset, keyword: str, vocabulary: frozenset[str]) -> str:
    """The first value of a code string, if it is one that may be told."""
    return words.known(_words(header, keyword)[0], vocabulary)


def _words(header: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of a code string in upper case; one empty word when it is absent."""
    try:
        value = header.get(keyword) or ""
    except Exception:
        return ("",)
    values = value if isinstance(value, MultiValue) else [value]
    return tuple(str(one).strip().upper() for one in values) or ("",)


def _slice_to_json(one: SliceGeometry) -> dict[str, Any]:
    return {
        "position_mm": list(one.position_mm),
        "orientation": list(one.orientation),
        "pixel_mm": list(one.pixel_mm),
        "shape": list(one.shape),
        "frame_of_reference_uid": one.frame_of_reference_uid,
        "thickness_mm": one.thickness_mm,
    }


def _slice_from_json(fields: Mapping[str, Any]) -> SliceGeometry:
    return SliceGeometry(
        position_mm=tuple(fields["position_mm"]),
        orientation=tuple(fields["orientation"]),
        pixel_mm=tuple(fields["pixel_mm"]),
        shape=tuple(fields["shape"]),
        frame_of_reference_uid=fields["frame_of_reference_uid"],
        thickness_mm=fields["thickness_mm"],
    )
