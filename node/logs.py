"""What the processes print: events with UIDs and AE titles, never a patient.

Libraries would quote: pynetdicom and pydicom data sets, every other one the value that it stumbled
over. So nobody but us prints words. Of a library's warning and of an exception that nobody caught
only the kind and the place are told.
"""

from __future__ import annotations

import errno
import logging
import sys
import threading
import traceback
import warnings
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
    _tell_of_others()


def _tell_of_others() -> None:
    """Everything that would reach standard error past us comes as one of our lines instead."""
    others = _Others(logging.WARNING)
    logging.root.handlers = [others]
    # It gives itself a handler when it has none.
    engine = logging.getLogger("dbos")
    engine.handlers, engine.propagate = [others], False
    sys.excepthook = lambda _kind, error, _trace: _tell("an exception ended the process", error)
    sys.unraisablehook = lambda found: _tell("an exception was lost", found.exc_value)
    threading.excepthook = lambda found: _tell("an exception ended a thread", found.exc_value)
    warnings.showwarning = lambda _message, kind, file, line, *_: structlog.get_logger().debug(
        "a library warned", kind=kind.__name__, place=f"{Path(file).name}:{line}"
    )


class _Others(logging.Handler):
    """Tells where a library logged a warning or worse, and of which kind the exception was."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        structlog.get_logger().warning(
            "a library warned",
            library=record.name,
            level=record.levelname.lower(),
            place=f"{record.filename}:{record.lineno}",
            **({"reason": describe(error)} if error else {}),
        )


def _tell(event: str, error: BaseException | None) -> None:
    structlog.get_logger().error(event, reason=describe(error) if error else "unknown")


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
