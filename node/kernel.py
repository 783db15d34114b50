"""What a convolution kernel (0018,1210) says about noise and edges.

The attribute is the vendor's own word. Bone and lung kernels sharpen edges and lift noise by a
factor of two to five, which drowns the soft tissue that the model reads; a soft kernel shows it.
"""

from __future__ import annotations

import re
from enum import StrEnum


class Sharpness(StrEnum):
    """How a kernel treats edges; `UNKNOWN` for words that are in no list of ours."""

    SOFT = "soft"
    SHARP = "sharp"
    UNKNOWN = "unknown"


# Siemens: B, Br, H, Hr, J, I, Bl ... and two digits, from 10 (smooth) to 80 (sharp); the bone
# kernels of their protocols begin at 54 (Br54) and 60 (B60, H60).
_SIEMENS = re.compile(r"([A-Z]{1,2})(\d{2})[A-Z]*")
_SIEMENS_SHARP_FROM = 54
# Canon and Toshiba: FC and two digits; body and brain below 30, bone and lung from 30 to 89, of
# which 40 to 49 are brain again.
_CANON = re.compile(r"FC(\d{2})")
# GE and others use words.
SHARP_WORDS = frozenset({"BONE", "BONEPLUS", "EDGE", "LUNG", "DETAIL", "ULTRA", "SHARP"})
SOFT_WORDS = frozenset({"SOFT", "STANDARD", "STND", "SMOOTH", "BRAIN", "BODY"})
# Philips has single letters: A, B and C are smooth to standard; D, E and L are bone and lung.
_PHILIPS = {"A": "soft", "B": "soft", "C": "soft", "UB": "soft", "UC": "soft"} | {
    "D": "sharp",
    "E": "sharp",
    "L": "sharp",
    "F": "sharp",
    "YD": "sharp",
    "YE": "sharp",
}


def sharpness(kernel: str) -> Sharpness:
    """The sharpness that a kernel's name stands for.

    Args:
        kernel: As `node.summary` keeps it: upper case, several values joined by a backslash, of
            which the first names the kernel and the rest its strength.
    """
    name = kernel.split("\\", maxsplit=1)[0].strip()
    if found := _CANON.fullmatch(name):
        number = int(found[1])
        is_sharp = number >= 30 and not 40 <= number < 50
        return Sharpness.SHARP if is_sharp else Sharpness.SOFT
    if found := _SIEMENS.fullmatch(name):
        is_sharp = int(found[2]) >= _SIEMENS_SHARP_FROM
        return Sharpness.SHARP if is_sharp else Sharpness.SOFT
    if name in _PHILIPS:
        return Sharpness(_PHILIPS[name])
    words = set(re.split(r"[^A-Z]+", name))
    if words & SHARP_WORDS:
        return Sharpness.SHARP
    return Sharpness.SOFT if words & SOFT_WORDS else Sharpness.UNKNOWN
