"""The workflow engine forgets what it will never be asked for again.

Each run and each attempt of a delivery leaves rows in the engine's database for ever. Once a
synthesis is settled nothing takes it up again (`node.states`): the ledger and its audit chain tell
what was done, `audit reproduce` goes by them and by the archive, the engine's rows serve nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from dbos import DBOSClient

from node.clock import to_text
from node.engine import APPLICATION, delivery_of, job_of
from node.ledger import Ledger

# Of a workflow that nobody runs and nobody will.
OVER: Final = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
# One short write transaction: workers wait for it.
BATCH: Final = 200


class Pruner:
    """Deletes ended workflows of settled syntheses.

    Args:
        ledger: Tells what is settled.
        url: Of the engine.
        age: How long after its beginning a workflow stays.
    """

    def __init__(self, ledger: Ledger, url: str, age: timedelta) -> None:
        self._ledger: Final = ledger
        self._age: Final = age
        self._client: Final = DBOSClient(system_database_url=url, application_name=APPLICATION)

    def close(self) -> None:
        """Give the connections back."""
        self._client.destroy()

    def run_once(self, now: datetime) -> int:
        """Delete what is old enough; how many workflows went."""
        deleted = kept = 0
        while True:
            page = self._client.list_workflows(
                status=list(OVER),
                end_time=to_text(now - self._age),
                limit=BATCH,
                offset=kept,
                load_input=False,
                load_output=False,
            )
            if not page:
                return deleted
            ids = [one.workflow_id for one in page]
            going = self._settled(ids)
            self._client.delete_workflows(going)
            deleted += len(going)
            kept += len(ids) - len(going)

    def _settled(self, ids: Sequence[str]) -> list[str]:
        """Those whose synthesis is settled; one that the ledger does not know stays."""
        deliveries = {one: number for one in ids if (number := delivery_of(one)) is not None}
        jobs = {one: job_of(one) for one in ids if one not in deliveries}
        settled_deliveries = self._ledger.deliveries.settled(deliveries.values())
        settled_jobs = self._ledger.syntheses.settled(jobs.values())
        return [
            one
            for one in ids
            if deliveries.get(one) in settled_deliveries or jobs.get(one) in settled_jobs
        ]
