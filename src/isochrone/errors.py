"""One tree of errors, ordered by who must act.

Every error carries what happened (its message), a stable exit code of the command line, an HTTP
status, an errno for block clients and a hint: the next thing to do. The tables in the manual are
made from these classes.
"""

from __future__ import annotations

import errno as _errno
from typing import ClassVar


class IsochroneError(Exception):
    """Anything this program says no with."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    errno: ClassVar[int] = _errno.EIO
    hint_default: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.hint_default

    @property
    def code(self) -> str:
        """Stable name for programs: the class name."""
        return type(self).__name__


class Refused(IsochroneError):
    """The caller must change the request."""

    http_status = 409
    errno = _errno.EINVAL


class InvalidInput(Refused):
    """The request makes no sense as it stands."""

    exit_code = 2
    http_status = 422


class NotFound(Refused):
    """The thing named does not exist."""

    exit_code = 3
    http_status = 404
    errno = _errno.ENOENT


class Conflict(Refused):
    """The thing exists already, or its state forbids the request."""

    exit_code = 4


class Held(Conflict):
    """A copy that is held or pinned must not be deleted."""


class OutOfRange(Refused):
    """A block request reaches past the end of its device."""

    exit_code = 2
    http_status = 422


class ReadOnly(Refused):
    """A change of something that must not change."""

    exit_code = 4
    errno = _errno.EPERM


class NotAllowed(Refused):
    """An export that this host may not open."""

    exit_code = 4
    http_status = 403
    errno = _errno.EACCES


class TlsNeeded(Refused):
    """An export that is served over TLS only, to a client that does not use it."""

    exit_code = 4
    http_status = 403
    errno = _errno.EACCES


class StaleEpoch(Refused):
    """A history that another site has taken over; it may not grant writes any more."""

    exit_code = 7
    errno = _errno.EPERM
    hint_default = "the group was promoted elsewhere: look there with `isochrone group show`"


class ConfirmationNeeded(Refused):
    """A destructive act without --yes and without a terminal to ask at."""

    exit_code = 2
    http_status = 428
    hint_default = "repeat it with --yes"


class Unavailable(IsochroneError):
    """Nothing is wrong with the request; try again when the cause is gone."""

    exit_code = 5
    http_status = 503


class NoSpace(Unavailable):
    """The disk under the pool is full."""

    exit_code = 6
    http_status = 507
    errno = _errno.ENOSPC
    hint_default = "free space on the pool's file system, or delete copies and volumes"


class HookFailed(Unavailable):
    """A hook could not hold its application or file system still all the time."""

    exit_code = 11
    hint_default = "try it by itself: it must print `ready`, wait for the end of its input, exit 0"


class DeadlinePassed(Unavailable):
    """What was waited for did not happen in time."""

    exit_code = 10
    http_status = 504


class PeerFault(IsochroneError):
    """The other side broke the protocol, or refused us."""

    exit_code = 8
    http_status = 502


class Damaged(IsochroneError):
    """Bytes on disk are not what was written."""

    exit_code = 9


class PoolFailed(Damaged):
    """The pool could not make data durable; it serves reads only until it is restarted."""

    errno = _errno.EIO
    hint_default = "look at the disk under the pool, then restart the controller"
