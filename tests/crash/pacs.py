"""A destination that fails at times: it is down, it aborts, it is out of resources."""

from __future__ import annotations

import random
import threading

from tests.peers import ScriptedPeer, free_port


class UnreliablePacs(threading.Thread):
    """A Storage SCP on one port that goes down and comes back.

    Args:
        seed: Of its whims.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(name="pacs", daemon=True)
        self.is_kind = threading.Event()
        self.stop = threading.Event()
        self.outages = 0
        self._random = random.Random(seed)
        self.peer = ScriptedPeer(answer=self._answer, port=free_port())
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
        kind = 1.0 if self.is_kind.is_set() else self._random.random()
        if kind < 0.01:
            return None
        return 0xA700 if kind < 0.03 else 0x0000
