"""A destination that fails at times: it is down, it aborts, it is out of resources, it will not
commit to what it has, or forgets to say so."""

from __future__ import annotations

import contextlib
import random
import threading
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from pynetdicom import evt

from node import commitment
from tests.node.test_commitment import report, report_on, send_report
from tests.peers import ScriptedPeer, free_port

SLOW = 2
"""Results that it commits to late."""


class UnreliablePacs(threading.Thread):
    """A Storage SCP with storage commitment on one port that goes down and comes back.

    Args:
        seed: Of its whims.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(name="pacs", daemon=True)
        self.is_kind = threading.Event()
        self.stop = threading.Event()
        self.outages = 0
        # Where the node listens for reports.
        self.node_port = 0
        self.committed: set[str] = set()
        self._slow: set[str] = set()
        self._reports: dict[Any, Dataset] = {}
        self._random = random.Random(seed)
        self.peer = ScriptedPeer(
            answer=self._answer,
            contexts=[SecondaryCaptureImageStorage, commitment.SOP_CLASS],
            handlers=[(evt.EVT_N_ACTION, self._asked), (evt.EVT_PDU_SENT, self._told)],
            port=free_port(),
        )
        self.peer.start()

    @property
    def port(self) -> int:
        return self.peer.port

    def run(self) -> None:
        while not self.stop.is_set():
            if self.is_kind.is_set() or self.stop.wait(self._random.uniform(3, 12)):
                self.stop.wait(0.2)
                continue
            self.peer.stop()
            self.outages += 1
            self.stop.wait(self._random.uniform(0.3, 2))
            self.peer.start()

    def _answer(self, uid: str, times: int) -> int | None:
        del uid, times
        kind = self._kind()
        if kind < 0.01:
            return None
        return 0xA700 if kind < 0.03 else 0x0000

    def _asked(self, event: evt.Event) -> tuple[int, None]:
        """Take responsibility for what is here, most of the time."""
        wanted, kind = event.action_information, self._kind()
        uids = [str(item.ReferencedSOPInstanceUID) for item in wanted.ReferencedSOPSequence]
        if self._is_slow(min(uids)):
            return 0x0000, None
        failed = [uid for uid in uids if uid not in self.peer.accepted()]
        if kind < 0.1 and not failed:
            failed = uids[:1]
        if kind < 0.9:
            self.committed |= set(uids) - set(failed)
            self._reports[event.assoc] = report(str(wanted.TransactionUID), uids, failed)
        return 0x0000, None

    def _is_slow(self, uid: str) -> bool:
        """Whether this is of the first results, which it takes over when all is over: until then
        retention, for which they are old enough, must leave them and their CT."""
        if len(self._slow) < SLOW:
            self._slow.add(uid)
        return uid in self._slow and not self.is_kind.is_set()

    def _told(self, event: evt.Event) -> None:
        """The response to the request is on its way: now the report may follow it."""
        if (ds := self._reports.pop(event.assoc, None)) is not None:
            threading.Thread(target=self._report, args=(event.assoc, ds), daemon=True).start()

    def _report(self, assoc: Any, ds: Dataset) -> None:
        # The node may die at any moment; it asks again.
        with contextlib.suppress(Exception):
            if self._random.random() < 0.5:
                report_on(assoc, ds)
            else:
                send_report(self.node_port, ds)

    def _kind(self) -> float:
        return 0.5 if self.is_kind.is_set() else self._random.random()
