"""The proof: a phantom goes through the real node, to nobody, and every stage is timed."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import typer
from pydicom.uid import SecondaryCaptureImageStorage

from config.settings import PROOF_SINK
from node.commands import asking
from node.journey import STAGES
from node.lock import hold
from node.loopback import LOOPBACK, local_node
from tests.journey import observing
from tests.journey.conftest import ImagesOnly
from tests.node.scu import associated
from tests.peers import ScriptedPeer, free_port, wait_until

pytestmark = pytest.mark.journey


def ask(
    port: int, method: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    url = f"http://{LOOPBACK}:{port}/health/proof"
    request = urllib.request.Request(url, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_phantom_goes_through_and_to_no_pacs(
    images_only: ImagesOnly, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("a secret of the site\n")
    allowed = {"Authorization": "Bearer a secret of the site"}
    # A closed door: the prover is let in by the title that it made up.
    changes = {
        **images_only,
        "node": {"port": free_port()},
        "receive": {"allow_any_peer": False, "peers": [{"ae_title": "CT1", "address": "any"}]},
        "web": {"token_file": str(token)},
    }
    with ScriptedPeer(contexts=[SecondaryCaptureImageStorage]) as pacs:
        target = [observing.destination(pacs.port, ae_title="PEER")]
        with local_node(tmp_path / "node", target, changes) as node:
            web = int(node.service.facts["web_port"])
            assert ask(web, "GET") == (200, {"ok": None})
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                assert ask(web, "POST", headers)[0] == 403
            assert not node.ledger.proofs.is_expected("PROOFGUESSED")
            with associated(node.service.port, calling_ae="PROOFGUESSED") as association:
                assert association.is_rejected
            with hold(node.settings.node.data_folder / "proof", "prover"):
                assert ask(web, "POST", allowed)[0] == 409

            answers: list[tuple[int, dict[str, Any]]] = []
            asked = threading.Thread(target=lambda: answers.append(ask(web, "POST", allowed)))
            asked.start()
            wait_until(node.ledger.proofs.last, 120, "the proof to begin")
            # Not twice at once.
            assert ask(web, "POST", allowed)[0] == 409
            asked.join()

            status, proof = answers[0]
            assert (status, proof["ok"]) == (200, True), proof
            assert proof["instances"] == len(observing.outputs(node.ledger, proof["job_id"]))
            assert set(proof["stages_s"]) >= set(STAGES[1:]) | {"pipeline.anatomy"}
            assert ask(web, "GET")[1]["study_uid"] == proof["study_uid"]
            assert pacs.associations == 0
            job = observing.story(node.ledger, proof["job_id"])
            assert [one["destination"] for one in job["deliveries"]] == [PROOF_SINK]
            assert job["priority"] > 10
            # Its files are to go, its record stays.
            marked = {one.unit for one in node.ledger.retention.marked()}
            assert marked == {proof["series_uid"], proof["job_id"]}
            assert observing.chain_is_whole(node.ledger)
    # The node is gone: what is proven then is that it is.
    with pytest.raises(typer.Exit) as ended:
        asking.prove(tmp_path / "node" / "site.toml", None, True)
    assert ended.value.exit_code == 4
    assert json.loads(capsys.readouterr().out)["ok"] is False
