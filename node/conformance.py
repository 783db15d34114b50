"""The tables of the DICOM conformance statement, printed from the code they describe.

``python -m node.conformance docs/conformance.md`` writes them between their markers; a test keeps
the two equal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from node.announcement import NOTIFICATION_STATUSES
from node.announcement import SOP_CLASS as NOTIFICATION
from node.commitment import REPORT_STATUSES
from node.commitment import SOP_CLASS as COMMITMENT
from node.intake import STATUSES
from node.query import FIND, NATIVE
from node.receive import STORAGE_CLASSES, TRANSFER_SYNTAXES, UNCOMPRESSED, VERIFICATION
from node.retrieve import GET, MOVE
from node.states import COMMITMENT_MOVES, DELIVERY_MOVES, SERIES_MOVES, SYNTHESIS_MOVES
from node.status import is_accepted, is_permanent
from node.tls import PROFILES
from pipeline.contrast import SeriesKind
from pipeline.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_MARKED: Final = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_EXAMPLES: Final = (0x0000, 0xB000, 0xB006, 0xB007, 0x0111, 0x0110, 0x0122, 0x0124, 0xA700, 0xA900)


def tables() -> dict[str, str]:
    """Every table by its name, as Markdown."""
    return {
        "implementation": _table(
            ("Implementation Class UID", "Implementation Version Name"),
            [(IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME)],
        ),
        "acceptor": _table(
            ("Abstract syntax", "UID", "Role"),
            [
                *((UID(uid).name, uid, "SCP") for uid in (VERIFICATION, *STORAGE_CLASSES)),
                (COMMITMENT.name, COMMITMENT, "SCU, reports only"),
                (NOTIFICATION.name, NOTIFICATION, "SCP"),
            ],
        ),
        "transfer_syntaxes": _table(
            ("Transfer syntax", "UID", "Verification", "Storage"),
            [
                (UID(uid).name, uid, "yes" if uid in UNCOMPRESSED else "no", "yes")
                for uid in TRANSFER_SYNTAXES
            ],
        ),
        "statuses": _table(
            ("Status", "Meaning", "When"),
            [(f"0x{one.code:04X}", one.meaning, one.cause) for one in STATUSES],
        ),
        "requestor": _table(
            ("Abstract syntax", "Transfer syntax", "Role"),
            [
                (SecondaryCaptureImageStorage.name, UID(uid).name, "SCU")
                for uid in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
            ]
            + [(COMMITMENT.name, ImplicitVRLittleEndian.name, "SCU")]
            + [
                (uid.name, UID(syntax).name, "SCU")
                for uid in (FIND, GET, MOVE)
                for syntax in NATIVE
            ]
            + [(UID(uid).name, "those of 3.2", "SCP, on C-GET") for uid in STORAGE_CLASSES],
        ),
        "reports": _table(
            ("Status", "When"), [(f"0x{status:04X}", when) for status, when in REPORT_STATUSES]
        ),
        "notifications": _table(
            ("Status", "When"),
            [(f"0x{status:04X}", when) for status, when in NOTIFICATION_STATUSES],
        ),
        "commitment_states": _moves(COMMITMENT_MOVES),
        "delivery_states": _moves(DELIVERY_MOVES),
        "answers": _table(
            ("Status of the peer", "What we make of it"),
            [(f"0x{status:04X}", _meaning(status)) for status in (*_EXAMPLES, 0xC000)],
        ),
        "series": _table(
            ("Series", "Series Number"), [(one.value, one.series_number) for one in SeriesKind]
        ),
        "tls": _table(
            ("Profile", "PS3.15", "Cipher suites of TLS 1.2 (OpenSSL names)"),
            [
                (f"`{name}`", clause, ", ".join(PROFILES[name]))
                for name, clause in (("bcp195", "B.12"), ("bcp195-modified", "B.13"))
            ],
        ),
        "series_states": _moves(SERIES_MOVES),
        "synthesis_states": _moves(SYNTHESIS_MOVES),
    }


def filled(text: str) -> str:
    """The text with every marked table printed anew.

    Raises:
        KeyError: When a marker names a table that does not exist.
    """
    known = tables()
    return _MARKED.sub(lambda found: found[1] + known[found[2]] + found[3], text)


def _meaning(status: int) -> str:
    if is_accepted(status):
        return "accepted"
    return "refused for good" if is_permanent(status) else "sent again later"


def _moves(moves: Mapping[Any, Iterable[str]]) -> str:
    rows = [(f"`{state}`", ", ".join(f"`{to}`" for to in sorted(moves[state]))) for state in moves]
    return _table(("State", "Moves to"), [(state, to or "-") for state, to in rows])


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *(list(row) for row in rows)]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
