"""Instance Availability Notification (PS3.4 annex R), as SCP: a PACS tells us what it has.

What it announces goes on record; `node.announced` fetches it where the settings want that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage
from pynetdicom import evt

from node.archive import checked_uid
from node.errors import Refuse
from node.ledger.announcements import Announced
from node.logs import describe
from node.status import INVALID_ATTRIBUTE_VALUE, MISSING_ATTRIBUTE, PROCESSING_FAILURE, SUCCESS

SOP_CLASS: Final = UID("1.2.840.10008.5.1.4.33")
# PS3.3 C.4.23.1.1: the others cannot be had now.
_AVAILABLE: Final = ("ONLINE", "NEARLINE")
_CT: Final = (CTImageStorage, EnhancedCTImageStorage)

NOTIFICATION_STATUSES: Final = (
    (SUCCESS, "What is announced is on record"),
    (INVALID_ATTRIBUTE_VALUE, "A UID is malformed"),
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
        series = tuple(read(event.attribute_list))
        on_announced(series, str(event.assoc.requestor.ae_title))
    except (AttributeError, IndexError):
        return MISSING_ATTRIBUTE, None
    except (Refuse, ValueError):
        return INVALID_ATTRIBUTE_VALUE, None
    except Exception as error:
        log.error("announcement is not on record", reason=describe(error))
        return PROCESSING_FAILURE, None
    return SUCCESS, None


def read(ds: Dataset) -> Iterator[Announced]:
    """The CT series of a notification (PS3.4 table R.3.2-1) that can be had.

    Raises:
        AttributeError: When a mandatory attribute is absent.
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
            yield Announced(study_uid, uid, str(retrieve_ae)[:16], len(available))
