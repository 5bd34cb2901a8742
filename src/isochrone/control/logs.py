"""Logs go to stderr: coloured at a terminal, `key=value` lines elsewhere, levels for journald."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

# Level prefixes of sd-daemon(3); journald strips them and brings its own clock.
PREFIXES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def set_up() -> None:
    """For the daemon process, once."""
    processors: list[Any] = [structlog.stdlib.add_log_level]
    if sys.stderr.isatty():
        processors.append(structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False))
        processors.append(structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ))
    elif "JOURNAL_STREAM" in os.environ:
        processors += [structlog.processors.format_exc_info, journal]
    else:
        processors.append(structlog.processors.format_exc_info)
        processors.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
        processors.append(_LINE)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # What libraries say: only if it matters.
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="level=%(levelname)s event=%(message)s"
    )


_LINE: Final = structlog.processors.LogfmtRenderer(
    key_order=["timestamp", "level", "event"], drop_missing=True, bool_as_flag=False
)


def journal(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    """A line with its level as a prefix."""
    level = PREFIXES.get(str(event.pop("level", "info")), 6)
    return f"<{level}>{_LINE(logger, method, event)}"
