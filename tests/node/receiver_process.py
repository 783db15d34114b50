"""A receiver in a process of its own, for tests that kill it: `python -m ... FOLDER [SETTINGS]`.

SETTINGS are of the section `receive`, as JSON.

Prints the port it listens on, then serves until it is killed.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from node.clock import utc_now
from node.logs import configure
from node.receive import Receiver
from tests.node.samples import new_archive, new_ledger, settings_for


def main() -> None:
    folder = Path(sys.argv[1])
    receive = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    settings = settings_for(folder, receive=receive)
    configure(settings.logging.model_copy(update={"level": "DEBUG"}), "receive")
    receiver = Receiver(settings, new_ledger(folder, utc_now), new_archive(folder))
    receiver.start()
    print(receiver.port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
