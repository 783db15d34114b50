"""From CT datasets to one volume in HU, in the patient's LPS millimeters.

SimpleITK's series reader averages uneven spacing and drops a gantry tilt without an error; here
geometry is judged first (`pipeline.headers`, `pipeline.slices`), and only then are pixels decoded,
straight into their place. PS3.3 C.7.6.2.1.1 (plane), C.8.2.1 (CT image), C.7.5.1.1.2 (padding).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from pipeline.errors import Corrupt, Declined
from pipeline.geometry import Float32, Volume
from pipeline.headers import (
    Frame,
    LossyHistory,
    Rescale,
    frames,
    lossy_history,
    optional_numbers,
)
from pipeline.slices import arrange

# Air is -1000 HU; what lies below -1024 is padding or reconstruction noise.
AIR_FLOOR_HU = -1024.0
# Between these a padding value would be tissue, so it cannot be told from the patient.
TISSUE_HU = (-900.0, 3000.0)
# Pixel data and what follows it (padding, digital signatures over the pixels).
_FIRST_PIXEL_TAG = 0x7FE00000
_RLE = "1.2.840.10008.1.2.5"


@dataclass(frozen=True, eq=False)
class CTSeries:
    """A CT series, read.

    Args:
        volume: HU, at least -1024, slices ascending along their normal.
        headers: One per instance, without pixel data, in the order of the slices they hold.
        lossy: Compression history that a derived image must carry on.
        corrections: What was put right while reading, for the record; UIDs and numbers only.
    """

    volume: Volume
    headers: tuple[Dataset, ...]
    lossy: LossyHistory | None
    corrections: tuple[str, ...]


def read_series(datasets: Sequence[Dataset]) -> CTSeries:
    """Read the instances of one CT series, in any order.

    The result does not depend on the order. Exact duplicates (same place, same values) are dropped
    and noted in `CTSeries.corrections`.

    Args:
        datasets: As `pydicom.dcmread` gives them, with file meta information and pixel data.

    Raises:
        Declined: When the series is readable CT but not one even, fine, gapless stack: the codes
            of `pipeline.headers.frames` and `pipeline.slices.arrange`, and ``slices.overlap``.
        Corrupt: When attributes or pixel data are absent, truncated or undecodable.
    """
    instances = sorted(datasets, key=lambda ds: str(ds.get("SOPInstanceUID", "")))
    slices = frames(instances)
    arrangement = arrange([one.geometry for one in slices])
    values = np.empty(arrangement.grid.shape, dtype=np.float32)
    corrections: list[str] = []
    for place, members in enumerate(arrangement.places):
        keeper = slices[members[0]]
        values[place] = _hounsfield(instances[keeper.instance], keeper, corrections)
        for member in members[1:]:
            other = slices[member]
            hu = _hounsfield(instances[other.instance], other, corrections)
            _check_same(hu, values[place], instances[other.instance])
            corrections.append(
                f"duplicate slice dropped: {_name(instances[other.instance], other)}"
            )
    if arrangement.largest_deviation_mm > 1e-3:
        corrections.append(
            f"slice positions evened out by up to {arrangement.largest_deviation_mm:.3f} mm"
        )
    kept = [slices[members[0]].instance for members in arrangement.places]
    headers = tuple(_without_pixels(instances[number]) for number in dict.fromkeys(kept))
    frame_of_reference_uid = slices[0].geometry.frame_of_reference_uid
    volume = Volume(values, arrangement.grid, frame_of_reference_uid)
    return CTSeries(volume, headers, lossy_history(headers), tuple(_once(corrections)))


def _hounsfield(ds: Dataset, frame: Frame, corrections: list[str]) -> Float32:
    """One slice in HU, ``(row, column)``, padding and everything below the floor at the floor."""
    stored = _decode(ds, frame)
    rescale = frame.rescale
    hu = stored.astype(np.float32)
    hu *= np.float32(rescale.slope)
    hu += np.float32(rescale.intercept)
    padding = _padding_range(ds)
    if padding is not None:
        if _is_tissue(padding, rescale):
            corrections.append(
                f"padding value {padding[0]} ignored: it is also the value of tissue"
            )
        else:
            hu[(stored >= padding[0]) & (stored <= padding[1])] = AIR_FLOOR_HU
    np.maximum(hu, np.float32(AIR_FLOOR_HU), out=hu)
    return hu


def _decode(ds: Dataset, frame: Frame) -> NDArray[np.integer]:
    """Stored values ``(row, column)``, whatever the transfer syntax."""
    uid = str(ds.get("SOPInstanceUID", "unknown"))
    if "PixelData" not in ds or not ds.PixelData:
        raise _corrupt("pixels.absent", f"instance {uid} without pixel data", "pixel data")
    syntax = getattr(getattr(ds, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is None:
        raise _corrupt("pixels.absent", f"instance {uid} without a transfer syntax", "one")
    try:
        _check_codestream(ds, UID(syntax), frame.index or 0)
        stored: NDArray[np.integer] = pixel_array(ds, index=frame.index)
    except (MemoryError, Corrupt):
        raise
    except Exception as error:  # each decoder raises what it likes; all mean the same here
        raise _corrupt(
            "pixels.undecodable",
            f"instance {uid} in {UID(syntax).name}: {type(error).__name__}",
            "pixel data that can be decoded",
        ) from error
    if stored.shape != frame.geometry.shape:
        raise _corrupt(
            "pixels.undecodable",
            f"instance {uid} decodes to {stored.shape}",
            f"{frame.geometry.shape[0]} rows, {frame.geometry.shape[1]} columns",
        )
    return stored


def _check_codestream(ds: Dataset, syntax: UID, index: int) -> None:
    """Refuse a JPEG-family codestream without its end: decoders fill the rest in silently.

    The end marker FFD9 is required by all of them (ISO 10918-1 EOI, 14495-1 EOI, 15444-1 EOC).
    """
    if not syntax.is_encapsulated or syntax == _RLE:
        return
    count = int(ds.get("NumberOfFrames", 1) or 1)
    end = get_frame(ds.PixelData, index, number_of_frames=count)[-64:].rstrip(b"\x00")
    if not end.endswith(b"\xff\xd9"):
        raise _corrupt(
            "pixels.truncated",
            f"instance {ds.SOPInstanceUID} with a codestream that has no end",
            "complete pixel data",
        )


def _padding_range(ds: Dataset) -> tuple[int, int] | None:
    """Lowest and highest stored value that mean "no data" (PS3.3 C.7.5.1.1.2)."""
    values = optional_numbers(ds, "PixelPaddingValue")
    if not values:
        return None
    limits = optional_numbers(ds, "PixelPaddingRangeLimit") or values
    ends = [int(values[0]), int(limits[0])]
    if ds.get("PixelRepresentation", 0) == 1:
        # Written as US by some, read as SS by the standard.
        ends = [end - 65536 if end > 32767 else end for end in ends]
    return min(ends), max(ends)


def _is_tissue(padding: tuple[int, int], rescale: Rescale) -> bool:
    lowest, highest = (rescale.slope * end + rescale.intercept for end in padding)
    return highest > TISSUE_HU[0] and lowest < TISSUE_HU[1]


def _check_same(one: Float32, other: Float32, ds: Dataset) -> None:
    if not np.array_equal(one, other):
        raise Declined(
            "slices.overlap",
            found=f"different slices at one position (instance {ds.get('SOPInstanceUID')})",
            expected="one slice per position",
            remedy="Send one reconstruction, or one phase, as one series.",
        )


def _without_pixels(ds: Dataset) -> Dataset:
    """The elements before the pixel data, in a dataset of their own; values are shared."""
    header: Dataset = ds[:_FIRST_PIXEL_TAG]
    meta = getattr(ds, "file_meta", None)
    if meta is not None:
        header.file_meta = meta
    return header


def _name(ds: Dataset, frame: Frame) -> str:
    uid = str(ds.get("SOPInstanceUID", "unknown"))
    return uid if frame.index is None else f"{uid} frame {frame.index + 1}"


def _once(notes: Iterable[str]) -> Iterable[str]:
    return dict.fromkeys(notes)


def _corrupt(code: str, found: str, expected: str) -> Corrupt:
    return Corrupt(
        code, found=found, expected=expected, remedy="Send the series again from its source."
    )
