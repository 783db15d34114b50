"""What the processes print: events with UIDs and AE titles, never a patient.

Libraries keep quiet: pynetdicom and pydicom would quote data sets in their messages.
"""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from pathlib import Path
from types import TracebackType

import structlog

from config.settings import LoggingSettings
from node.errors import NodeError
from pipeline.errors import PipelineError

_OUR_ROOT = Path(__file__).resolve().parent.parent
_OUR_PACKAGES = ("config", "node", "pipeline")


def configure(settings: LoggingSettings, role: str) -> None:
    """Set up the logging of this process, to standard error.

    Args:
        settings: Level and format.
        role: Named in every line.
    """
    level = getattr(logging, settings.level)
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if settings.format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=32)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            # Not a context variable: those do not follow into threads.
            lambda _logger, _method, event: {"role": role, **event},
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    for name in ("pynetdicom", "pydicom"):
        library = logging.getLogger(name)
        library.handlers = [logging.NullHandler()]
        library.propagate = False


def describe(error: BaseException) -> str:
    """What may be said of an error to anybody.

    The messages of our own errors are written without patient data. A foreign message may quote
    a data element, so of a foreign error only its class and the place in our code are told.
    """
    if isinstance(error, NodeError | PipelineError):
        return f"{type(error).__name__}: {error}"
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else _qualified(kind)
    if isinstance(error, OSError) and error.errno is not None:
        # Which kind of trouble, without the path: ENOSPC and EACCES want different hands.
        name = f"{name} {errno.errorcode.get(error.errno, error.errno)}"
    return f"{name} in {_place(error.__traceback__)}"


def _qualified(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _place(trace: TracebackType | None) -> str:
    """The innermost frame of our code, or of any when none is ours."""
    frames = traceback.extract_tb(trace)
    for frame in reversed(frames):
        path = Path(frame.filename)
        if path.is_relative_to(_OUR_ROOT):
            relative = path.relative_to(_OUR_ROOT)
            if relative.parts[0] in _OUR_PACKAGES:
                return f"{relative.as_posix()}:{frame.lineno} ({frame.name})"
    if frames:
        return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} ({frames[-1].name})"
    return "an unknown place"
