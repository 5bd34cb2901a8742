"""Logs go to stderr: coloured at a terminal, `key=value` lines elsewhere, levels for journald.

A thread writes them, so that the controller goes on when nobody reads; see `Lines`.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Final

import structlog

from isochrone.world.lines import Lines

# Level prefixes of sd-daemon(3); journald strips them and brings its own clock.
PREFIXES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def set_up() -> None:
    """For the daemon process, once."""
    sys.stderr.flush()
    lines = Lines(sys.stderr.fileno(), dropped)
    atexit.register(lines.drain)
    _say_crashes(lines)
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
        logger_factory=structlog.PrintLoggerFactory(lines),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    # What libraries say: only if it matters.
    logging.basicConfig(
        stream=lines, level=logging.WARNING, format="level=%(levelname)s event=%(message)s"
    )


def _say_crashes(lines: Lines) -> None:
    """A trace takes the same way, behind what was logged before, and waits no longer than that."""

    def say(kind: type[BaseException], e: BaseException, trace: TracebackType | None) -> None:
        lines.write("".join(traceback.format_exception(kind, e, trace)))

    sys.excepthook = say


def dropped(count: int) -> str:
    """The line in the place of those that nobody took."""
    prefix = f"<{PREFIXES['warning']}>" if "JOURNAL_STREAM" in os.environ else ""
    return f'{prefix}level=warning event="{count} lines were dropped: nobody read the log"\n'


_LINE: Final = structlog.processors.LogfmtRenderer(
    key_order=["timestamp", "level", "event"], drop_missing=True, bool_as_flag=False
)


def journal(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    """A line with its level as a prefix."""
    level = PREFIXES.get(str(event.pop("level", "info")), 6)
    return f"<{level}>{_LINE(logger, method, event)}"
