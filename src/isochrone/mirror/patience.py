"""When a secondary is told that connecting again does not help.

A link that broke is tried again for ever, soon. What the primary sends may also be refused here,
and the same each time: then each try costs the link what was sent until then, the state says
DUPLEX and SUSPENDED in turn, and nobody is told that it will not end by itself.
"""

from __future__ import annotations

from typing import Final

from isochrone.errors import Damaged, IsochroneError, PeerFault

STUCK_FAULTS: Final = 5  # the same at the same cut: a try or two may meet a primary that restarts
STUCK_SECONDS: Final = 60.0  # between tries then: somebody may have mended it at the other site


class Patience:
    """Of one mover."""

    def __init__(self) -> None:
        self._fault = ""
        self._cut = -1
        self._times = 0

    @property
    def ended(self) -> bool:
        """The same has gone wrong so often that somebody must act."""
        return self._times >= STUCK_FAULTS

    def failed(self, error: IsochroneError, cut: int) -> str:
        """A connection ended on what had arrived; the cause in words."""
        fault = str(error)
        if not isinstance(error, PeerFault | Damaged):
            return fault
        if (fault, cut) != (self._fault, self._cut):
            self._fault, self._cut, self._times = fault, cut, 0
        self._times += 1
        if not self.ended:
            return fault
        # Without a number: it would be another cause each time.
        todo = error.hint or "begin this mirror anew, if nothing else helps"
        return f"{fault}; at cut {cut} that comes again and again, so somebody must act: {todo}"

    def advanced(self) -> None:
        """Something has been committed."""
        self._fault, self._cut, self._times = "", -1, 0
