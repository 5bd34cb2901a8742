"""Hold a file system still: `isochrone hook freeze`, a hook for copies.

FIFREEZE through util-linux's `fsfreeze`. Letting go fails if the file system was not frozen any
more; so success means that it was frozen all the time.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Final

from isochrone.control.hooks import DEADLINE_S, DEADLINE_VARIABLE
from isochrone.errors import HookFailed, InvalidInput, NotAllowed
from isochrone.world.programs import input_ends, run

_GOOD_BYE: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _LetGo(BaseException):
    """A signal came while everything is frozen."""


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise _LetGo


def freeze(mount: str) -> None:
    """Freeze, say `ready`, wait for the end of stdin, thaw.

    Raises `InvalidInput`, `NotAllowed` or `HookFailed`. If it was frozen it is thawed in any case,
    also on a signal, and when the time that the caller gave is over.
    """
    if not os.path.ismount(mount):
        raise InvalidInput(f"{mount} is not where a file system is mounted", hint="see: findmnt")
    seconds = float(os.environ.get(DEADLINE_VARIABLE, DEADLINE_S))
    for number in _GOOD_BYE:
        signal.signal(number, _raise)
    certain = held = False
    try:
        _fsfreeze("--freeze", mount)
        certain = True
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        held = input_ends(seconds)
    except _LetGo:
        held = True  # told to let go in another way; whether it held, the thaw says
    finally:
        for number in _GOOD_BYE:
            signal.signal(number, signal.SIG_IGN)
        try:
            _fsfreeze("--unfreeze", mount)
        except HookFailed:
            # If a signal ended the freezing it may have frozen nothing; otherwise this is news.
            if certain:
                raise
    if not held:
        raise HookFailed(f"nobody said within {seconds:g} s that the copy is taken")


def _fsfreeze(act: str, mount: str) -> None:
    try:
        code, said = run(["fsfreeze", act, mount])
    except OSError as e:
        raise HookFailed(
            f"fsfreeze cannot be run: {e.strerror or e}", hint="it comes with util-linux"
        ) from e
    if "not permitted" in said:
        raise NotAllowed(said, hint="freezing a file system needs root")
    if code:
        raise HookFailed(said or f"fsfreeze {act} ended with {code}")
