"""Take a copy while hooks hold still, whatever kind of copy: what it became, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from isochrone.errors import HookFailed, IsochroneError

if TYPE_CHECKING:
    from isochrone.control.hooks import Quiet
    from isochrone.store.catalogue import Consistency


def take_still(
    quiet: Quiet,
    at_least: Consistency,
    take: Callable[[float], bytes],
    undo: Callable[[bytes], None],
) -> tuple[bytes, Consistency]:
    """The document that `take` gave, and what the copy is. `take` gets the seconds that it has.

    Everything is let go as soon as it returns. Raises `HookFailed` if the copy is less than asked
    for; then `undo` was called.
    """
    from isochrone.control.hooks import CLASSES

    quiet.freeze()
    try:
        document = take(max(quiet.left, 0.1))
    finally:
        wrong = quiet.thaw()
        for problem in wrong:
            click.echo(f"isochrone: {problem}", err=True)
    got: Consistency = "crash" if wrong else quiet.gives
    if CLASSES.index(got) >= CLASSES.index(at_least):
        return document, got
    try:
        undo(document)
    except IsochroneError as e:
        raise HookFailed(
            f"{wrong[0]}; the copy is {got}-consistent only, and could not be deleted: {e.message}"
        ) from e
    raise HookFailed(
        f"{wrong[0]}; the copy was deleted again",
        hint=f"--at-least {got} would have kept it, or mend the hook",
    )
