"""What is measured: one fio job a line, and how fio is asked to run it.

The order matters. Writing the whole volume sequentially comes first, so that the sequential and
random reads after it find it laid out as it was written; the last job reads it sequentially after
the random writes, which is the worst case of a log-structured store and no change for a plain file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RAMP_S: Final = 0.5  # not measured: connecting, first faults, filling the queue


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    title: str
    rw: str  # as fio names it
    block_size: str
    depth: int
    fsync: bool = False  # a flush after every write, and the next write after its answer

    @property
    def reads(self) -> bool:
        return self.rw in ("read", "randread")

    @property
    def sequential(self) -> bool:
        return self.rw in ("read", "write")


JOBS: Final = (
    Job("seq-write", "1 MiB sequential write, depth 4", "write", "1m", 4),
    Job("seq-read", "1 MiB sequential read, depth 4", "read", "1m", 4),
    Job("rand-read-1", "4 KiB random read, depth 1", "randread", "4k", 1),
    Job("rand-read-32", "4 KiB random read, depth 32", "randread", "4k", 32),
    Job("rand-write-1", "4 KiB random write, depth 1", "randwrite", "4k", 1),
    Job("rand-write-32", "4 KiB random write, depth 32", "randwrite", "4k", 32),
    Job("write-flush", "4 KiB random write + flush, depth 1", "randwrite", "4k", 1, fsync=True),
    Job("seq-read-after", "1 MiB sequential read after random writes", "read", "1m", 4),
)

# Every block once, so that no server reads holes or allocates what another has allocated.
FILL: Final = Job("fill", "fill", "write", "1m", 4)


def common_options() -> list[str]:
    """What every measured job has; named in the report."""
    return ["--norandommap", "--time_based", f"--ramp_time={RAMP_S:g}"]


def command(job: Job, uri: str, seconds: float, seed: int, output: str) -> list[str]:
    """The fio command of one measurement. The same seed gives every server the same offsets."""
    return [
        *_base(job, uri, output),
        *common_options(),
        f"--runtime={seconds:g}",
        f"--randseed={seed}",
    ]


def fill_command(uri: str, output: str) -> list[str]:
    return [*_base(FILL, uri, output), "--end_fsync=1"]


def _base(job: Job, uri: str, output: str) -> list[str]:
    return [
        "fio",
        f"--name={job.name}",
        "--ioengine=nbd",  # fio knows --uri only after it
        f"--uri={uri}",
        f"--rw={job.rw}",
        f"--bs={job.block_size}",
        f"--iodepth={job.depth}",
        *(["--fsync=1"] if job.fsync else []),
        "--output-format=json",
        f"--output={output}",
    ]
