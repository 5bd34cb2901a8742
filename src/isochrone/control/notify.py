"""What systemd wants to hear: sd_notify(3), spoken by hand.

One datagram of `NAME=value` lines to the socket that the environment names. Outside of systemd
there is no such socket and nothing is sent.
"""

from __future__ import annotations

# A datagram to the service manager is no byte channel of the product.
import socket  # noqa: TID251
from collections.abc import Mapping


class Notifier:
    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        self.watchdog_s = int(usec) / 1e6 if usec.isdigit() and meant else 0.0  # 0: none
        self._status = ""

    def send(self, *lines: str) -> bool:
        """Whether somebody took it. Never fails: a deaf manager must not stop a controller."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as wire:
                wire.setblocking(False)
                wire.connect(self._address)
                wire.send("\n".join(lines).encode())
        except OSError:
            return False
        return True

    def ready(self, status: str) -> None:
        self._status = status
        self.send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`; sent when it differs from the last."""
        if status != self._status:
            self._status = status
            self.send(f"STATUS={status}")

    def stopping(self, status: str) -> None:
        self._status = status
        self.send("STOPPING=1", f"STATUS={status}")

    def alive(self) -> None:
        self.send("WATCHDOG=1")
