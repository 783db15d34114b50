"""A receiver in a process of its own, for tests that kill it: `python -m ... FOLDER`.

Prints the port it listens on, then serves until it is killed.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from node.clock import utc_now
from node.logs import configure
from node.receive import Receiver
from tests.node.samples import new_archive, new_ledger, settings_for


def main() -> None:
    folder = Path(sys.argv[1])
    settings = settings_for(folder)
    configure(settings.logging.model_copy(update={"level": "DEBUG"}), "receive")
    receiver = Receiver(settings, new_ledger(folder, utc_now), new_archive(folder))
    receiver.start()
    print(receiver.port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
