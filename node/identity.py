"""Who an encoded data set is: all that must be known of it before success is answered.

Reading a whole header takes as long as storing the instance. So the five elements that identify it
are looked up in the encoded bytes, and `node.header` is asked about everything that looks unusual:
what it refuses is refused, with its reasons.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Final

from pydicom.uid import UID

from node import words
from node.archive import checked_uid
from node.errors import Refuse
from node.header import read_header
from node.structure import LONG_VRS
from node.summary import modality_of

_SOP_CLASS, _SOP_INSTANCE, _MODALITY = 0x00080016, 0x00080018, 0x00080060
_STUDY, _SERIES = 0x0020000D, 0x0020000E
_WANTED: Final = frozenset({_SOP_CLASS, _SOP_INSTANCE, _MODALITY, _STUDY, _SERIES})
# Of PS3.5 table 7.1-2; with those of 7.1-1 they are all there is.
_SHORT_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()
)
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_TAG: Final = struct.Struct("<HH")
_SHORT: Final = struct.Struct("<H")
_LONG: Final = struct.Struct("<L")


@dataclass(frozen=True)
class Identity:
    """The UIDs of a data set and its modality, in words that may go on record."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    modality: str


def identify(head: bytes, reopen: Callable[[], BinaryIO], transfer_syntax_uid: str) -> Identity:
    """Who the data set is.

    Args:
        head: Its beginning, `node.archive.HEAD_BYTES` or all of it.
        reopen: Opens the whole of it, as for `node.header.read_header`.
        transfer_syntax_uid: Of the presentation context.

    Raises:
        Unreadable, Unidentified: As `node.header.read_header`.
        OSError: As `reopen`.
    """
    found = _look_up(head, UID(transfer_syntax_uid))
    if found is not None:
        return found
    with reopen() as stream:
        header = read_header(stream, transfer_syntax_uid)
    return Identity(
        header.sop_class_uid,
        header.sop_instance_uid,
        header.study_uid,
        header.series_uid,
        modality_of(header.dataset),
    )


def _look_up(head: bytes, syntax: UID) -> Identity | None:
    """The identity, when it stands there plainly."""
    if not syntax.is_little_endian or syntax.is_deflated:
        return None
    try:
        values = _plain_elements(head, syntax.is_implicit_VR)
        sop_class, sop_instance, study, series = (
            checked_uid(values[tag].rstrip(b" \0").decode("ascii"))
            for tag in (_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES)
        )
        modality = values.get(_MODALITY, b"").split(b"\\")[0].decode("ascii").strip(" \0").upper()
    except (_Unusual, KeyError, UnicodeError, Refuse, struct.error):
        return None
    modality = words.known(modality, words.MODALITIES)
    return Identity(sop_class, sop_instance, study, series, modality)


class _Unusual(Exception):
    """Not for the quick look."""


def _plain_elements(head: bytes, is_implicit: bool) -> dict[int, bytes]:
    """The values of the wanted elements, up to the last of them (PS3.5 7.1).

    Raises:
        _Unusual: When an element is out of order, has a length that is not told, or a VR that is
            none: then only a real reader knows.
        struct.error: When the bytes end before that.
    """
    found: dict[int, bytes] = {}
    position, before = 0, 0
    while before < _SERIES:
        group, element = _TAG.unpack_from(head, position)
        tag = group << 16 | element
        vr = head[position + 4 : position + 6]
        if tag <= before or group < 0x0008:
            raise _Unusual
        if is_implicit or vr in LONG_VRS:
            start = position + (8 if is_implicit else 12)
            (length,) = _LONG.unpack_from(head, start - 4)
        elif vr in _SHORT_VRS:
            start = position + 8
            (length,) = _SHORT.unpack_from(head, start - 2)
        else:
            raise _Unusual
        position = start + length
        if length == _UNDEFINED_LENGTH or position > len(head):
            raise _Unusual
        if tag in _WANTED:
            found[tag] = head[start:position]
        before = tag
    return found
