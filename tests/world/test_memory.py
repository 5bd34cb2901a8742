"""Large buffers are reused after they were freed."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource, sys
from isochrone.world.memory import keep_freed_memory
print(int(keep_freed_memory() if sys.argv[1] == "1" else True))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    bytes(bytearray(1 << 20))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kept: int) -> int:
    command = [sys.executable, "-c", PROGRAM, str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    possible, count = map(int, done.stdout.split())
    assert possible, "glibc takes mallopt"
    return count


def test_large_buffers_cost_no_new_pages() -> None:
    assert faults(kept=1) < faults(kept=0) / 4


def test_what_lives_is_not_looked_through_again() -> None:
    program = (
        "import gc; from isochrone.world.memory import settle\n"
        "kept = [[n] for n in range(1000)]; settle()\n"
        "print(gc.get_freeze_count() >= 1000, len(gc.get_objects()) < 1000)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"], done.stderr
