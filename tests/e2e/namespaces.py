"""Two network namespaces with a poor line between them, made and removed by a test."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.control.process import Controller
from tests.e2e.programs import PATH, environment, lost

NUMBERS: Final = itertools.count()
ADDRESSES: Final = ("10.203.0.1", "10.203.0.2")


def refusal() -> str:
    """Why no namespace can be made here; empty if it can."""
    for program in ("ip", "tc", "iptables"):
        if shutil.which(program, path=PATH) is None:
            lost(program)
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    probe = subprocess.run(
        ["ip", "netns", "add", f"iso{os.getpid()}p"],
        capture_output=True,
        check=False,
        env=environment(),
    )
    if probe.returncode:
        return f"no network namespaces here: {probe.stderr.decode().strip()}"
    _ip("netns", "del", f"iso{os.getpid()}p")
    return ""


def need_namespaces() -> None:
    """Skip where the machine does not let us; in CI that would be a hole nobody sees, so fail."""
    known = os.environ.get("ISOCHRONE_NO_NAMESPACES", "")
    if known:
        pytest.skip(f"this runner cannot make network namespaces: {known}")
    reason = refusal()
    if reason and os.environ.get("CI"):
        pytest.fail(
            f"{reason}, so the mirror is not tested over a poor line; run as root, or set"
            " ISOCHRONE_NO_NAMESPACES=reason if this runner never can"
        )
    if reason:
        pytest.skip(reason)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, env=environment())


@dataclass(frozen=True)
class Line:
    """The line: a pair of interfaces, one in each namespace."""

    names: tuple[str, str]

    def inside(self, side: int, *words: str) -> None:
        command = ["ip", "netns", "exec", self.names[side], *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment()
        )
        if done.returncode:
            pytest.fail(f"{' '.join(command)}: {done.stderr}")

    def poor(self, rate: str, loss: float) -> None:
        """Limit the rate in both directions, and lose a part of all packets."""
        for side in (0, 1):
            shaping = ("rate", rate, "burst", "64kbit", "latency", "100ms")
            self.inside(side, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *shaping)
            chance = ("-m", "statistic", "--mode", "random", "--probability", str(loss))
            self.inside(side, "iptables", "-A", "INPUT", "-i", "eth0", *chance, "-j", "DROP")

    def down(self) -> None:
        """Both ends lose every packet from now on, and nobody is told."""
        for side in (0, 1):
            self.inside(side, "iptables", "-I", "INPUT", "1", "-i", "eth0", "-j", "DROP")

    def up(self) -> None:
        for side in (0, 1):
            self.inside(side, "iptables", "-D", "INPUT", "1")


@contextmanager
def line() -> Iterator[Line]:
    number = next(NUMBERS)
    names = (f"iso{os.getpid()}x{number}a", f"iso{os.getpid()}x{number}b")
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip(
            "link",
            "add",
            "eth0",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "eth0",
            "netns",
            names[1],
        )
        found = Line(names)
        for side, address in enumerate(ADDRESSES):
            found.inside(side, "ip", "address", "add", f"{address}/24", "dev", "eth0")
            found.inside(side, "ip", "link", "set", "lo", "up")
            found.inside(side, "ip", "link", "set", "eth0", "up")
        yield found
    finally:
        for name in names:
            subprocess.run(
                ["ip", "netns", "del", name], capture_output=True, check=False, env=environment()
            )


class Inside(Controller):
    """A controller that runs in a namespace. Its Unix sockets are reached from everywhere."""

    def __init__(self, name: str, directory: Path, *options: str) -> None:
        # `ip netns exec` becomes the program: signals reach the controller itself.
        self._name = name
        super().__init__(directory, *options)

    def command(self) -> list[str]:
        return ["ip", "netns", "exec", self._name, sys.executable, "-m", "isochrone", "serve"]
