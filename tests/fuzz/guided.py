"""`python -m tests.fuzz.guided SECONDS`: coverage-guided fuzzing of a header's reading, by atheris.

atheris is installed by hand (`pip install atheris==3.0.0`, Python 3.11 to 3.13): it instruments
pydicom and our code, and finds ways into them that chance does not. It stops at the first exception
that is none of ours and prints the input.
"""

from __future__ import annotations

import sys
from io import BytesIO

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(
    include=["node.header", "node.summary", "node.structure", "pydicom"]
):
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    from node.errors import Refuse
    from node.header import read_header
    from node.summary import summarize

from tests.fuzz.__main__ import quiet
from tests.fuzz.data_sets import _tail, _uids

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
# With the UIDs given, all else is up to atheris.
BEFORE, AFTER = _uids(), _tail()


def one(content: bytes) -> None:
    """Read a header of these bytes, alone or between good UIDs."""
    whole = BEFORE + content + AFTER if content[:1] < b"\x80" else content
    try:
        header = read_header(BytesIO(whole), SYNTAXES[len(content) % 2])
        summarize(header.dataset, header.pixels, ("trauma",))
    except Refuse:
        return


if __name__ == "__main__":
    quiet()
    atheris.Setup([sys.argv[0], f"-max_total_time={sys.argv[1]}", "-max_len=2048"], one)
    atheris.Fuzz()
