"""Logs: events as a constant sentence plus fields, one line each, to standard error.

Programs call configure_logs once and then log.info("writer changed", epoch=7, node="n2").  What libraries say through the
standard logging module goes the same way, so that one file holds everything in one form.  Logging never raises: on a full disk
lines are lost, and the first one that is taken again says how many.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Literal, TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict, ExcInfo, FilteringBoundLogger, Processor

from daemonkit.escape import visible, visible_json

Level = Literal["debug", "info", "warning", "error"]
Style = Literal["console", "json"]


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table [logs] of every program's settings."""

    level: Level = "info"
    style: Style = "console"


LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _Present:
    level = logging.INFO


_present = _Present()


def are_written(level: str) -> bool:
    """Return whether lines of *level* are written now: what costs something to put into words may be left unsaid."""
    return LEVELS[level] >= _present.level


def configure_logs(*, program: str, level: str = "info", style: str = "console") -> None:
    """Send every log line of this process to standard error. Raises ValueError for an unknown *level* or *style*."""
    if level not in LEVELS:
        raise ValueError(f'unknown log level "{level}"; expected one of {", ".join(LEVELS)}')
    if style not in ("console", "json"):
        raise ValueError(f'unknown log style "{style}"; expected console or json')

    def add_program(_logger: object, _method: str, event: EventDict) -> EventDict:
        event.setdefault("program", program)
        return event

    processors: list[Processor] = [
        add_program,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if style == "json":
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
    else:
        processors.append(_show_strings)
        processors.append(
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=_plain_traceback)
        )
    _present.level = LEVELS[level]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=_Printers(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Forward()], level=max(LEVELS[level], logging.INFO), force=True)
    logging.captureWarnings(True)


def get_logger(**fields: object) -> FilteringBoundLogger:
    """Return a logger that adds *fields* to each of its lines."""
    return cast("FilteringBoundLogger", structlog.get_logger(**fields))


def _to_json(event: object, **_options: object) -> str:
    return visible_json(msgspec.json.encode(event, enc_hook=str).decode())


def _show_strings(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Make what is printed as it is visible; of other values the renderer prints the repr."""
    return {visible(key): visible(value) if type(value) is str else value for key, value in event.items()}


def _plain_traceback(stream: TextIO, exception: ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exception)
    stream.write(visible(text.getvalue(), keep="\n\t"))


class _Printers:
    """Makes the one printer of a stream, for every logger the same."""

    def __init__(self, stream: TextIO) -> None:
        self._printer = _Printer(stream)

    def __call__(self, *_arguments: object) -> _Printer:
        return self._printer


class _Printer:
    """Writes lines past Python's buffers, where one that could not be written would stay and fail again with the next."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = 0
        self._torn = False
        try:
            self._descriptor: int | None = stream.fileno()
        except (OSError, io.UnsupportedOperation):
            self._descriptor = None  # not a file, as under a test

    def msg(self, message: str) -> None:
        """Write one line, or count it as lost."""
        try:
            self._write(f"\n{message}\n" if self._torn else f"{message}\n")
        except (OSError, ValueError):  # the disk is full, the reader gone, the file closed
            self._lost += 1
            return
        lost, self._lost = self._lost, 0
        if lost:
            get_logger().warning("lines could not be written here and are lost", lines=lost)

    log = debug = info = warn = warning = error = err = critical = fatal = failure = exception = msg

    def _write(self, text: str) -> None:
        if self._descriptor is None:
            self._stream.write(text)
            self._stream.flush()
            return
        data = text.encode(errors="backslashreplace")
        while data:
            data = data[os.write(self._descriptor, data) :]
            self._torn = bool(data)


class _Forward(logging.Handler):
    """Carries a record of the standard logging module over to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = get_logger(library=record.name)
            message = record.getMessage()
            if record.exc_info is not None and record.exc_info[0] is not None:
                log.log(record.levelno, message, exc_info=record.exc_info)
            else:
                log.log(record.levelno, message)
        except Exception:  # logging must not end the program that logs
            self.handleError(record)
