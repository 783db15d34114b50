"""The web role: FastAPI on uvicorn, on a socket that is bound before anybody is told of it."""

from __future__ import annotations

import secrets
import socket
import threading
from typing import Any, Final

import structlog
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from config.settings import Settings
from node.archive import Archive
from node.clock import utc_now
from node.errors import Retry, Stop
from node.ledger import Ledger
from node.logs import describe
from node.model_folder import model_identity
from node.proof import Busy, prove
from node.web.health import Health
from node.web.metrics import CONTENT_TYPE, Metrics
from node.web.tally import Chain

STOP_S: Final = 5.0
_RELAYED: Final = ("origin", "forwarded", "x-forwarded-for", "x-real-ip")
_NOT_ALLOWED: Final = (
    "a proof is asked for from this machine, or with the bearer token of web.token_file"
)

log = structlog.get_logger(__name__)


class Pages:
    """The pages, served in a thread.

    Args:
        settings: Of the node.
        ledger: What the pages tell about.
        archive: Whose disk they tell about.
    """

    def __init__(self, settings: Settings, ledger: Ledger, archive: Archive) -> None:
        self._settings: Final = settings
        self._ledger: Final = ledger
        self._chain: Final = Chain(ledger.reports, utc_now, settings.web.verify_chain_s)
        self._health: Final = Health(settings, ledger, archive, self._chain, utc_now)
        model = model_identity(settings.synthesis.model_folder)
        self._metrics: Final = Metrics(
            settings, ledger.figures, self._chain, archive, model, utc_now
        )
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The TCP port; the real one when the settings say 0.

        Raises:
            Stop: When not started.
        """
        if self._socket is None:
            raise Stop("the pages have not been started")
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Bind and serve; returns at once.

        Raises:
            Stop: When the port cannot be had.
        """
        address = (self._settings.web.bind_address, self._settings.web.port)
        try:
            self._socket = socket.create_server(
                address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            )
        except OSError as error:
            raise Stop(
                f"web.port: expected a free port, {address[0]}:{address[1]} is not to be had:"
                f" {error.strerror}"
            ) from error
        config = uvicorn.Config(
            self._application(),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=int(STOP_S),
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="pages", daemon=True
        )
        self._thread.start()
        log.info("pages started", port=self.port)

    def turn(self) -> None:
        """Read on in the audit chain, so that no scrape has much to read.

        Raises:
            Retry: When the ledger does not answer.
        """
        if self._chain.was_read:
            self._chain.read_on()

    def verify(self) -> None:
        """Read the whole audit chain when that is due; takes a minute for a million events.

        Raises:
            Retry: When the ledger does not answer.
        """
        self._chain.verify_if_due()

    def stop(self) -> None:
        """Answer what was asked, then end."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(STOP_S)
        if self._socket is not None:
            self._socket.close()

    def _application(self) -> FastAPI:
        # No pages of its own: they would tell strangers what there is.
        app = FastAPI(title="pseudomri", docs_url=None, redoc_url=None, openapi_url=None)
        app.add_exception_handler(Exception, _on_error)
        app.add_api_route("/health", self._show_health, methods=["GET"])
        app.add_api_route("/health/proof", self._show_proof, methods=["GET"])
        app.add_api_route("/health/proof", self._prove, methods=["POST"])
        app.add_api_route("/metrics", self._show_metrics, methods=["GET"])
        return app

    def _show_health(self) -> JSONResponse:
        is_well, page = self._health.look()
        return _json(page, 200 if is_well else 503)

    def _show_proof(self) -> JSONResponse:
        last = self._ledger.proofs.last()
        return _json(last or {"ok": None}, 200 if last is None or last["ok"] is not False else 503)

    def _prove(self, request: Request) -> JSONResponse:
        """Answers when the proof is over, which takes as long as a synthesis and its queue."""
        if not self._may_prove(request):
            return _json({"error": _NOT_ALLOWED}, 403)
        try:
            outcome = prove(self._settings, self._ledger)
        except Busy as error:
            return _json({"error": str(error)}, 409)
        log.info("proof ended", study_uid=outcome["study_uid"], ok=outcome["ok"])
        return _json(outcome, 200 if outcome["ok"] else 503)

    def _may_prove(self, request: Request) -> bool:
        """By token where there is one; else from this machine, by nobody's browser or proxy."""
        token_file = self._settings.web.token_file
        if token_file is not None:
            expected = f"Bearer {token_file.read_text().strip()}".encode()
            given = request.headers.get("authorization", "").encode()
            return secrets.compare_digest(given, expected)
        is_relayed = any(name in request.headers for name in _RELAYED)
        host = request.client.host if request.client else ""
        return not is_relayed and host in ("127.0.0.1", "::1")

    def _show_metrics(self) -> Response:
        try:
            return Response(self._metrics.text(), media_type=CONTENT_TYPE)
        except Retry as error:
            return _json({"error": str(error)}, 503)


def _json(content: Any, status: int) -> JSONResponse:
    return JSONResponse(content, status, headers={"Cache-Control": "no-store"})


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    """What may be said of an accident; the place is in the log."""
    reason = describe(error)
    log.error("page failed", page=request.scope.get("route") and request.url.path, reason=reason)
    return _json({"error": reason}, 500)
