"""What a C-STORE status means for the one who sent (PS3.4 table B.2-1, PS3.7 annex C)."""

from __future__ import annotations

SUCCESS = 0x0000
# PS3.7 annex C: the peer holds this UID already. Our UIDs follow from the content, so it holds this
# very instance: an earlier attempt arrived and its answer was lost.
DUPLICATE_SOP_INSTANCE = 0x0111
INVALID_ATTRIBUTE_VALUE = 0x0106
PROCESSING_FAILURE = 0x0110
NO_SUCH_EVENT_TYPE = 0x0113
INVALID_ARGUMENT_VALUE = 0x0115
INVALID_OBJECT_INSTANCE = 0x0117
MISSING_ATTRIBUTE = 0x0120
SOP_CLASS_NOT_SUPPORTED = 0x0122
NOT_AUTHORIZED = 0x0124


CANCELED = 0xFE00
_PENDING = (0xFF00, 0xFF01)


def is_pending(status: int) -> bool:
    """Whether more responses to the same request follow (PS3.4 C.4)."""
    return status in _PENDING


def is_accepted(status: int) -> bool:
    """Whether the peer keeps the instance: success, a Bxxx warning, or it held it before."""
    return status in {SUCCESS, DUPLICATE_SOP_INSTANCE} or status & 0xF000 == 0xB000


def is_permanent(status: int) -> bool:
    """Whether the same instance would be refused again.

    A9xx (data set does not match SOP class), Cxxx (cannot understand) and three of PS3.7 annex C.
    A7xx (out of resources) and the rest may pass.
    """
    return (
        status & 0xFF00 == 0xA900
        or status & 0xF000 == 0xC000
        or status in {INVALID_OBJECT_INSTANCE, SOP_CLASS_NOT_SUPPORTED, NOT_AUTHORIZED}
    )
