"""A worker for `powerloss_work` to record.

`python -m tests.crash.recorded_worker FOLDER PORT [DROPPED]`

Makes one synthesis of a CT of few slices and delivers it to the PACS at PORT of this machine; says
when it is committed, then waits to be killed. `DROPPED` as for `recorded`.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from node.clock import utc_now
from node.engine import Dispatcher, engine_url
from node.logs import configure
from node.stages import Stages
from node.states import SynthesisState
from node.workflow import Worker
from tests.crash.recorded import drop
from tests.node import journeys
from tests.peers import LOOPBACK, wait_until

COMMITTED_S = 200.0


def main() -> None:
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    drop(sys.argv[3] if len(sys.argv) > 3 else "")
    pacs = {"name": "pacs", "ae_title": "PEER", "host": LOOPBACK, "port": port}
    settings = journeys.settings_for(folder, [pacs])
    configure(settings.logging, "work")
    # All of it under strace: the model of the disk knows only what it saw written.
    journeys.prepare_node(settings)
    ledger, archive = journeys.open_parts(settings, "work")
    journeys.put_ct_on_record(ledger, archive)
    new = journeys.new_synthesis(ledger)
    ledger.syntheses.create(new, "tests")
    stages = Stages(journeys.MODEL_DIGEST, journeys.prepare, journeys.synthesize, journeys.package)
    Worker(settings, ledger, archive, stages, utc_now).launch()
    Dispatcher(ledger.syntheses, engine_url(settings)).run_once()
    wait_until(
        lambda: ledger.syntheses.get(new.job_id).state == SynthesisState.COMMITTED, COMMITTED_S
    )
    print("committed", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
