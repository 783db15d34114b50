"""Which audit events become messages, and what is said in them."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ImplicitVRLittleEndian, SecondaryCaptureImageStorage

from config.settings import Settings
from node.archive import Archive
from node.atna import message as atna
from node.atna.message import Action, Message, Object, Outcome, Participant
from node.audit import Event, Kind
from node.clock import from_text
from node.durable import sync_folder, write_file
from node.ledger.entries import Destination
from node.ledger.outbox import About, Outbox

KEY_FILE: Final = "atna.key"
_KEY_BYTES: Final = 32
# As in `node.query`, which brings pynetdicom with it.
STUDY_ROOT_FIND: Final = UID("1.2.840.10008.5.1.4.1.2.2.1")


class Telling:
    """Makes messages of events.

    Args:
        settings: Of the node.
        outbox: Tells what an event is about.
        archive: Where the patient's number is read, since the ledger does not have it.
    """

    def __init__(self, settings: Settings, outbox: Outbox, archive: Archive) -> None:
        self._settings: Final = settings
        self._outbox: Final = outbox
        self._archive: Final = archive
        self._host: Final = os.uname().nodename
        self._makers: Final[dict[str, Callable[[Event], Message | None]]] = {
            Kind.APPLICATION_STARTED: self._application,
            Kind.APPLICATION_STOPPED: self._application,
            Kind.ASSOCIATION_REFUSED: self._refused,
            Kind.SERIES_COMPLETED: self._received,
            Kind.SYNTHESIS_PACKAGED: self._made,
            Kind.DELIVERY_ATTEMPTED: self._sent,
            Kind.QUERY_ISSUED: self._asked,
            Kind.RETENTION_REMOVED: self._removed,
            Kind.NODE_BACKED_UP: self._backed_up,
            Kind.BACKUP_FAILED: self._backed_up,
        }

    def tell(self, event: Event) -> bytes | None:
        """The message of an event as XML; None for an event that no other system needs."""
        maker = self._makers.get(event.kind)
        made = maker(event) if maker else None
        if made is None:
            return None
        atna_settings = self._settings.atna
        return made.to_xml(f"{self._ae_title}@{self._host}", atna_settings.site_id)

    @property
    def _ae_title(self) -> str:
        return self._settings.node.ae_title

    def _us(self, role: atna.Code, is_requestor: bool) -> Participant:
        return Participant(self._host, self._ae_title, role, is_requestor)

    def _application(self, event: Event) -> Message:
        is_start = event.kind == Kind.APPLICATION_STARTED
        return Message(
            atna.APPLICATION_ACTIVITY,
            Action.EXECUTE,
            from_text(event.at),
            (Participant(event.actor, self._ae_title, atna.APPLICATION, False),),
            kind=atna.APPLICATION_START if is_start else atna.APPLICATION_STOP,
        )

    def _refused(self, event: Event) -> Message:
        """A stranger, or TLS that failed: PS3.15 A.5.3.11 with Node Authentication."""
        address = str(event.detail["peer_address"])
        peer = Participant(event.actor, event.actor, atna.SOURCE, True, address)
        reason, count = str(event.detail["reason"]), int(event.detail.get("count", 1))
        if count > 1:
            reason = f"{reason} ({count} times)"
        alert = Object(
            f"{event.actor}@{address}",
            atna.NODE_ID,
            "2",
            "13",
            details={"Alert Description": reason},
        )
        return Message(
            atna.SECURITY_ALERT,
            Action.EXECUTE,
            from_text(event.at),
            (self._us(atna.DESTINATION, False), peer),
            (alert,),
            kind=atna.NODE_AUTHENTICATION,
            outcome=Outcome.MINOR_FAILURE,
            failure=reason,
        )

    def _received(self, event: Event) -> Message | None:
        """One message a version of a series: what came in one go is one transfer."""
        about = self._outbox.about_series(event.subject)
        if about is None:
            return None
        peer = Participant(about.peer_ae, about.peer_ae, atna.SOURCE, True, about.peer_address)
        return Message(
            atna.INSTANCES_TRANSFERRED,
            Action.CREATE,
            from_text(event.at),
            (peer, self._us(atna.DESTINATION, False)),
            self._objects(about, {about.sop_class_uid: int(event.detail["instances"])}),
        )

    def _made(self, event: Event) -> Message | None:
        about = self._outbox.about_job(event.subject)
        if about is None:
            return None
        made = {str(SecondaryCaptureImageStorage): len(event.detail["outputs"])}
        return Message(
            atna.INSTANCES_ACCESSED,
            Action.CREATE,
            from_text(event.at),
            (self._us(atna.APPLICATION, True),),
            self._objects(about, made),
        )

    def _sent(self, event: Event) -> Message | None:
        """An attempt that moved instances, however it ended, or the last one that failed.

        One that moved none and is done came after one that was cut off, which is told.
        """
        answers = {key: int(count) for key, count in event.detail["answers"].items()}
        outcome = str(event.detail["outcome"])
        if outcome != "failed" and not answers:
            return None
        about = self._outbox.about_job(event.subject)
        destination = self._outbox.destination(int(event.detail["delivery"]))
        if about is None or destination is None:
            return None
        is_done = outcome == "delivered"
        # One by STOW-RS has no AE title.
        name = destination.ae_title or destination.name
        peer = Participant(name, name, atna.DESTINATION, False, destination.host)
        sent = {str(SecondaryCaptureImageStorage): sum(answers.values())}
        # A.5.3.4: what leaves the site's security domain is exported; who else gets it, A.5.3.7.
        is_export = destination.name in self._settings.delivery.outside
        media = (self._media(destination),) if is_export else ()
        return Message(
            atna.DATA_EXPORT if is_export else atna.INSTANCES_TRANSFERRED,
            Action.READ,
            from_text(event.at),
            (self._us(atna.SOURCE, True), peer, *media),
            self._objects(about, sent),
            outcome=Outcome.SUCCESS if is_done else Outcome.MINOR_FAILURE,
            failure="" if is_done else str(event.detail["reason"] or outcome),
        )

    def _media(self, destination: Destination) -> Participant:
        """Where an export went, as the medium that the standard wants named."""
        web = {one.name: str(one.url) for one in self._settings.delivery.web_destinations}
        place = f"dicom://{destination.ae_title}@{destination.host}:{destination.port}"
        uri, host = web.get(destination.name, place), destination.host
        return Participant(uri, "", atna.DESTINATION_MEDIA, False, host, atna.MEDIA_URI)

    def _asked(self, event: Event) -> Message:
        """A.5.3.10: that it was asked, not what came of it."""
        peer = Participant(
            event.subject, event.subject, atna.DESTINATION, False, str(event.detail["host"])
        )
        asked = Object(
            str(STUDY_ROOT_FIND),
            atna.SOP_CLASS_UID,
            "2",
            "3",
            details={"TransferSyntax": str(ImplicitVRLittleEndian)},
            query=_encoded(str(event.detail["level"]), event.detail["keys"]),
        )
        return Message(
            atna.QUERY,
            Action.EXECUTE,
            from_text(event.at),
            (self._us(atna.SOURCE, True), peer),
            (asked,),
        )

    def _removed(self, event: Event) -> Message | None:
        """A.5.3.8 when nothing of a study is left, A.5.3.6 else."""
        about = self._outbox.about_series(str(event.detail["series_uid"]))
        if about is None:
            return None
        is_output = event.detail["unit"] == "outputs"
        sop_class = str(SecondaryCaptureImageStorage) if is_output else about.sop_class_uid
        is_gone = bool(event.detail["is_study_gone"])
        return Message(
            atna.STUDY_DELETED if is_gone else atna.INSTANCES_ACCESSED,
            Action.DELETE,
            from_text(event.at),
            (self._us(atna.APPLICATION, True),),
            self._objects(about, {sop_class: int(event.detail["files"])}),
        )

    def _backed_up(self, event: Event) -> Message:
        """A.5.3.4: all there is was exported to a medium, or was to be.

        The table wants every study and patient named. They would be all of them, in a message that
        no syslog server takes: the object is the archive as a whole.
        """
        # Events of an earlier version do not tell the folder.
        folder, damaged = str(event.detail.get("folder", "")), int(event.detail.get("damaged", 0))
        failure = str(event.detail.get("reason", ""))
        if damaged:
            failure = f"{damaged} files are missing or damaged, all others were copied"
        uri = f"file://{self._host}{quote(folder)}"
        media = Participant(uri, "", atna.DESTINATION_MEDIA, False, self._host, atna.MEDIA_URI)
        everything = Object(
            f"{self._ae_title}@{self._host}", atna.NODE_ID, "2", "17", name=event.subject
        )
        return Message(
            atna.DATA_EXPORT,
            Action.READ,
            from_text(event.at),
            (self._us(atna.SOURCE, True), media),
            (everything,),
            outcome=Outcome.MINOR_FAILURE if failure else Outcome.SUCCESS,
            failure=failure,
        )

    def _objects(self, about: About, instances: dict[str, int]) -> tuple[Object, ...]:
        study = Object(about.study_uid, atna.STUDY_UID, "2", "3", instances=instances)
        return study, Object(self._patient(about), atna.PATIENT_NUMBER, "1", "1")

    def _patient(self, about: About) -> str:
        """The patient as `atna.patient` wants it told."""
        how = self._settings.atna.patient
        if how == "none":
            return "not disclosed"
        number = self._patient_id(about)
        if how == "id" or number == "unknown":
            return number
        digest = hmac.new(self._key(), number.encode(), hashlib.sha256)
        return f"pseudonym-{digest.hexdigest()[:32]}"

    def _patient_id(self, about: About) -> str:
        try:
            path = self._archive.resolve(about.header_path)
            ds = dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"])
            return str(ds.get("PatientID") or "") or "unknown"
        except Exception:
            # Deleted by retention, or a text that cannot be decoded: the study still tells.
            return "unknown"

    def _key(self) -> bytes:
        """This site's key, made once: without it a digest of a patient's number is guessed."""
        path = self._settings.node.data_folder / KEY_FILE
        if not path.exists():
            _write_once(path, secrets.token_bytes(_KEY_BYTES))
        return path.read_bytes()


def _encoded(level: str, keys: Mapping[str, str]) -> bytes:
    """The identifier of a C-FIND, in implicit little endian (PS3.5 10.1)."""
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(ds, keyword, value or None)
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, True
    write_dataset(stream, ds)
    return stream.getvalue()


def _write_once(path: Path, content: bytes) -> None:
    """Write a secret as a whole, or leave the one that somebody else was faster to write."""
    temporary = path.with_suffix(f".{os.getpid()}")
    write_file(temporary, content, 0o600)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    sync_folder(path.parent)
