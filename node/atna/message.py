"""An audit message as PS3.15 A.5.1 defines it, and its XML."""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

APPLICATION_SERVER: Final = "4"
_DECLARATION: Final = b'<?xml version="1.0" encoding="UTF-8"?>'
MACHINE_NAME, IP_ADDRESS = "1", "2"


@dataclass(frozen=True)
class Code:
    """A coded value (PS3.15 A.5.1.1, CodedValueType); DCM codes are those of PS3.16 annex D."""

    value: str
    meaning: str
    scheme: str = "DCM"


APPLICATION_ACTIVITY: Final = Code("110100", "Application Activity")
INSTANCES_ACCESSED: Final = Code("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED: Final = Code("110104", "DICOM Instances Transferred")
STUDY_DELETED: Final = Code("110105", "DICOM Study Deleted")
DATA_EXPORT: Final = Code("110106", "Export")
QUERY: Final = Code("110112", "Query")
SECURITY_ALERT: Final = Code("110113", "Security Alert")
APPLICATION_START: Final = Code("110120", "Application Start")
APPLICATION_STOP: Final = Code("110121", "Application Stop")
NODE_AUTHENTICATION: Final = Code("110126", "Node Authentication")
MEDIA_URI: Final = Code("110037", "URI")
APPLICATION: Final = Code("110150", "Application")
DESTINATION: Final = Code("110152", "Destination Role ID")
SOURCE: Final = Code("110153", "Source Role ID")
DESTINATION_MEDIA: Final = Code("110154", "Destination Media")
STUDY_UID: Final = Code("110180", "Study Instance UID")
SOP_CLASS_UID: Final = Code("110181", "SOP Class UID")
NODE_ID: Final = Code("110182", "Node ID")
PATIENT_NUMBER: Final = Code("2", "Patient Number", "RFC-3881")


class Action(StrEnum):
    """EventActionCode."""

    CREATE = "C"
    READ = "R"
    DELETE = "D"
    EXECUTE = "E"


class Outcome(StrEnum):
    """EventOutcomeIndicator; what failed here can be tried again or concerns one object."""

    SUCCESS = "0"
    MINOR_FAILURE = "4"


@dataclass(frozen=True)
class Participant:
    """A process that took part.

    Args:
        user_id: Our process, the AE title of a peer, or the URI of a medium.
        ae_title: Goes into AlternativeUserID, as A.5.2 wants it; empty for what has none.
        address: Numeric or a name; empty when unknown.
        media: What kind of medium it is, where it is one.
    """

    user_id: str
    ae_title: str
    role: Code
    is_requestor: bool
    address: str = ""
    media: Code | None = None


@dataclass(frozen=True)
class Object:
    """What it was about.

    Args:
        identifier: In the sense of `kind`.
        type_code: 1 person, 2 system object.
        role_code: PS3.15 A.5.1.2.2, such as 1 patient, 3 report.
        instances: SOP Class UID to number of instances.
        details: Further words, by name.
        query: The data set of a query, encoded; in the place of a name.
    """

    identifier: str
    kind: Code
    type_code: str
    role_code: str
    name: str = ""
    instances: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    query: bytes = b""


@dataclass(frozen=True)
class Message:
    """One audit message."""

    event: Code
    action: Action
    at: datetime
    participants: tuple[Participant, ...]
    objects: tuple[Object, ...] = ()
    kind: Code | None = None
    outcome: Outcome = Outcome.SUCCESS
    failure: str = ""

    def to_xml(self, source_id: str, site_id: str = "") -> bytes:
        """The message as UTF-8.

        Args:
            source_id: AuditSourceID: this node.
            site_id: AuditEnterpriseSiteID; left out when empty.
        """
        root = Element("AuditMessage")
        event = SubElement(
            root,
            "EventIdentification",
            EventActionCode=str(self.action),
            EventDateTime=self.at.isoformat(timespec="milliseconds"),
            EventOutcomeIndicator=str(self.outcome),
        )
        _add_code(event, "EventID", self.event)
        if self.kind is not None:
            _add_code(event, "EventTypeCode", self.kind)
        if self.failure:
            SubElement(event, "EventOutcomeDescription").text = self.failure
        for participant in self.participants:
            _add_participant(root, participant)
        source = SubElement(root, "AuditSourceIdentification", AuditSourceID=source_id)
        if site_id:
            source.set("AuditEnterpriseSiteID", site_id)
        SubElement(source, "AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})
        for one in self.objects:
            _add_object(root, one)
        # On one line: syslog servers write a line break as an escape, which is no XML any more.
        content: bytes = tostring(root, encoding="utf-8", xml_declaration=False)
        return _DECLARATION + content


def _add_code(parent: Element, name: str, code: Code) -> None:
    SubElement(
        parent,
        name,
        {"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning},
    )


def _add_participant(root: Element, participant: Participant) -> None:
    element = SubElement(
        root,
        "ActiveParticipant",
        UserID=participant.user_id,
        UserIsRequestor="true" if participant.is_requestor else "false",
    )
    if participant.ae_title:
        element.set("AlternativeUserID", f"AETITLES={participant.ae_title}")
    if participant.address:
        element.set("NetworkAccessPointID", participant.address)
        element.set("NetworkAccessPointTypeCode", _kind_of(participant.address))
    _add_code(element, "RoleIDCode", participant.role)
    if participant.media is not None:
        medium = SubElement(element, "MediaIdentifier")
        _add_code(medium, "MediaType", participant.media)


def _kind_of(address: str) -> str:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return MACHINE_NAME
    return IP_ADDRESS


def _add_object(root: Element, one: Object) -> None:
    element = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=one.identifier,
        ParticipantObjectTypeCode=one.type_code,
        ParticipantObjectTypeCodeRole=one.role_code,
    )
    _add_code(element, "ParticipantObjectIDTypeCode", one.kind)
    if one.query:
        query = SubElement(element, "ParticipantObjectQuery")
        query.text = b64encode(one.query).decode("ascii")
    else:
        SubElement(element, "ParticipantObjectName").text = one.name
    for name, value in one.details.items():
        SubElement(
            element,
            "ParticipantObjectDetail",
            type=name,
            value=b64encode(value.encode()).decode("ascii"),
        )
    if one.instances:
        description = SubElement(element, "ParticipantObjectDescription")
        for uid, count in one.instances.items():
            SubElement(description, "SOPClass", UID=uid, NumberOfInstances=str(count))
