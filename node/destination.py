"""A destination for the demo and the benchmark: a Storage SCP that writes what it gets.

``python -m node.destination FOLDER`` listens on a free loopback port, tells it in one line, and
ends with its standard input. It stands in for a PACS and promises no durability.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pynetdicom._config as pynetdicom_config
from pynetdicom import AE, StoragePresentationContexts, evt

pynetdicom_config.LOG_HANDLER_LEVEL = "none"

AE_TITLE = "DEMO_PACS"


def listen(folder: Path) -> int:
    """Listen in the background and write every instance under `folder`; the port."""
    folder.mkdir(parents=True, exist_ok=True)

    def store(event: evt.Event) -> int:
        ds = event.dataset
        series = folder / str(ds.SeriesInstanceUID)
        series.mkdir(exist_ok=True)
        path = series / f"{ds.SOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        return 0x0000

    ae = AE(ae_title=AE_TITLE)
    ae.maximum_pdu_size = 0
    ae.supported_contexts = StoragePresentationContexts
    handlers: list[Any] = [(evt.EVT_C_STORE, store)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None  # it is only for a blocking server
    return int(server.server_address[1])


if __name__ == "__main__":
    print("ready", f"port={listen(Path(sys.argv[1]))} ae={AE_TITLE}", flush=True)
    sys.stdin.read()
