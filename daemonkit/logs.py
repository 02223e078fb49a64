"""Logs: events as a constant sentence plus fields, one line each, to standard error.

Programs call configure_logs once and then log.info("writer changed", epoch=7, node="n2").  What libraries say through the
standard logging module goes the same way, so that one file holds everything in one form.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal, cast

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

Level = Literal["debug", "info", "warning", "error"]
Style = Literal["console", "json"]

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


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
        processors.append(
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            )
        )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Forward()], level=max(LEVELS[level], logging.INFO), force=True)
    logging.captureWarnings(True)


def get_logger(**fields: object) -> FilteringBoundLogger:
    """Return a logger that adds *fields* to each of its lines."""
    return cast("FilteringBoundLogger", structlog.get_logger(**fields))


def _to_json(event: object, **_options: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


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
