"""Instance Availability Notification (PS3.4 annex R), as SCP: a PACS tells us what it has.

What it announces goes on record; `node.announced` fetches it where the settings want that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, cast

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage
from pynetdicom import evt
from pynetdicom.dimse_primitives import N_CREATE

from node.archive import checked_uid
from node.intake import printable
from node.ledger.announcements import Announced
from node.logs import describe
from node.status import INVALID_ATTRIBUTE_VALUE, MISSING_ATTRIBUTE, PROCESSING_FAILURE, SUCCESS
from node.structure import refuse_too_many

SOP_CLASS: Final = UID("1.2.840.10008.5.1.4.33")
# PS3.3 C.4.23.1.1: the others cannot be had now.
_AVAILABLE: Final = ("ONLINE", "NEARLINE")
_CT: Final = (CTImageStorage, EnhancedCTImageStorage)

NOTIFICATION_STATUSES: Final = (
    (SUCCESS, "What is announced is on record"),
    (INVALID_ATTRIBUTE_VALUE, "A UID is malformed, or the data set makes no sense"),
    (PROCESSING_FAILURE, "A fault of this node; it may be announced again"),
    (MISSING_ATTRIBUTE, "A study, series, instance or its availability is not named"),
)
"""Every status we answer an N-CREATE with. The conformance statement prints this."""

OnAnnounced = Callable[[tuple[Announced, ...], str], None]
"""Told the CT series of a notification and the AE title it came from."""

log = structlog.get_logger()


def respond(event: evt.Event, on_announced: OnAnnounced) -> tuple[int, Dataset | None]:
    """Answer an N-CREATE request of a notification; never raises.

    Returns:
        The status (PS3.7 10.1.5.1.6), and the UID where the PACS left it to us.
    """
    try:
        request = cast(N_CREATE, event.request)
        refuse_too_many(request.AttributeList, event.context.transfer_syntax)
        series = tuple(read(event.attribute_list))
    except (AttributeError, IndexError, TypeError):
        # Absent, or empty.
        return MISSING_ATTRIBUTE, None
    except Exception:
        # A UID is none, or nothing makes sense; pydicom tells that in many ways.
        return INVALID_ATTRIBUTE_VALUE, None
    try:
        on_announced(series, str(event.assoc.requestor.ae_title))
    except Exception as error:
        log.error("announcement is not on record", reason=describe(error))
        return PROCESSING_FAILURE, None
    return SUCCESS, None


def read(ds: Dataset) -> Iterator[Announced]:
    """The CT series of a notification (PS3.4 table R.3.2-1) that can be had.

    Raises:
        AttributeError, IndexError, TypeError: When a mandatory attribute is absent or empty.
        Refuse: When a UID is none.
    """
    study_uid = checked_uid(str(ds.StudyInstanceUID))
    for series in ds.ReferencedSeriesSequence:
        available = [
            item
            for item in series.ReferencedSOPSequence
            if item.InstanceAvailability in _AVAILABLE and item.ReferencedSOPClassUID in _CT
        ]
        if available:
            # Retrieve AE Title has one or more values; the first is as good as the others.
            titles = available[0].RetrieveAETitle
            retrieve_ae = titles if isinstance(titles, str) else titles[0]
            uid = checked_uid(str(series.SeriesInstanceUID))
            yield Announced(study_uid, uid, printable(str(retrieve_ae), 16), len(available))
