"""The coded words of a header that may go on record.

A code string or a kernel's name is whatever somebody typed at the scanner, and people type names
there. So only words that are known go into the ledger and into reasons; any other is `OTHER`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Set
from typing import Final

from node.archive import checked_uid
from node.errors import Refuse
from node.kernel import SHARP_WORDS, SOFT_WORDS

OTHER: Final = "OTHER"


def _words(text: str) -> frozenset[str]:
    return frozenset(word.replace("|", " ") for word in text.split())


# PS3.3 C.7.3.1.1.1: what a CT node may be sent, by mistake or not.
MODALITIES: Final = _words(
    """CT MR PT NM US XA RF CR DX MG IO PX ES GM SM OT SC DOC SR PR KO SEG REG RTIMAGE RTDOSE
    RTSTRUCT RTPLAN BMD OCT OP AU ECG"""
)
# PS3.3 C.7.6.1.1.2, C.8.2.1.1.1 and what scanners and workstations add to them; a bar is a space.
IMAGE_TYPES: Final = _words(
    """ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER REFORMATTED MPR MPVR CPR VOLUME AVERAGE
    RESAMPLED FUSED MULTI_ENERGY MONOENERGETIC VMI DUAL SUBTRACTION HELICAL HELIX NORM SPI
    CT_SOM5 CT_SOM7 CT_SOM5|MPR CT_SOM5|SPI CT_SOM7|MPR CT_SOM7|SPI MIP MINIP VRT SSD VOLREN
    PROJECTION|IMAGE"""
)
# PS3.16 annex L.
BODY_PARTS: Final = _words(
    """HEAD BRAIN SKULL ORBIT SINUS FACE JAW NECK HEADNECK HEADCHEST NECKCHEST NECKCHESTABDOMEN
    NECKCHESTABDPELV CSPINE CTSPINE TSPINE TLSPINE LSPINE LSSPINE SSPINE SPINE COCCYX CHEST THORAX
    LUNG HEART BREAST CHESTABDOMEN CHESTABDPELVIS ABDOMEN ABDOMENPELVIS PELVIS SHOULDER CLAVICLE
    STERNUM RIB SCAPULA ARM HUMERUS ELBOW FOREARM WRIST HAND HIP FEMUR THIGH LEG KNEE CALF TIBIA
    ANKLE FOOT EXTREMITY WHOLEBODY"""
)
PHOTOMETRICS: Final = _words(
    """MONOCHROME1 MONOCHROME2 RGB YBR_FULL YBR_FULL_422 YBR_ICT YBR_RCT PALETTE|COLOR"""
)
# Siemens (B31F, Br64d), Canon and Toshiba (FC08-H), a strength or a field's letter behind them.
_KERNEL: Final = re.compile(r"(?:FC\d{2}(?:-[A-Z])?|[A-Z]{1,2}\d{2}[A-Z]?|[A-Z]{1,2})")
_STRENGTH: Final = re.compile(r"\d{1,3}")


def known(word: str, vocabulary: Set[str]) -> str:
    """The word itself when it is known or empty, `OTHER` otherwise."""
    return word if not word or word in vocabulary else OTHER


def kernel(values: tuple[str, ...]) -> str:
    """The name of a convolution kernel and its strength, joined by a backslash.

    Args:
        values: Of Convolution Kernel (0018,1210), upper case.
    """
    name, strengths = values[0], [one for one in values[1:] if _STRENGTH.fullmatch(one)]
    if name and not _KERNEL.fullmatch(name):
        kept = [one for one in re.split(r"[^A-Z]+", name) if one in SHARP_WORDS | SOFT_WORDS]
        name = " ".join(kept) or OTHER
    return "\\".join([name, *strengths])


def uid(text: str) -> str:
    """A UID, or one made of the text when it is none, so that equal ones stay equal."""
    try:
        return checked_uid(text) if text else ""
    except Refuse:
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
        return f"2.25.{int.from_bytes(digest[:16], 'big')}"
