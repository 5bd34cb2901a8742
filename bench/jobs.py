"""What is measured: one fio job a line, and how fio is asked to run it.

The order matters. Writing the whole volume sequentially comes first, so that the sequential and
random reads after it find it laid out as it was written; the last job reads it sequentially after
the random writes, which is the worst case of a log-structured store and no change for a plain file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIX_READS: Final = 70  # percent of the mixed job
LOAD_PART: Final = 0.6  # nobody is saturated, so the latency is not that of a queue
RAMP_S: Final = 0.5  # not measured: connecting, first faults, filling the queue


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    title: str
    rw: str  # as fio names it
    block_size: str
    depth: int
    fsync: bool = False  # a flush after every write, and the next write after its answer
    clients: int = 1  # connections, each with its own depth
    load_of: str = ""  # offered: LOAD_PART of what the slowest server did in this job
    copies: bool = False  # a copy is taken each second meanwhile
    ceiling: bool = True  # worth comparing with servers that keep nothing

    @property
    def reads(self) -> bool:
        """Whether to look at fio's reads; a mixed job is told by them too, see `mixed`."""
        return self.rw in ("read", "randread", "randrw")

    @property
    def mixed(self) -> bool:
        return self.rw == "randrw"

    @property
    def sequential(self) -> bool:
        return self.rw in ("read", "write")


# fmt: off
JOBS: Final = (
    Job("seq-write", "1 MiB sequential write, depth 4", "write", "1m", 4),
    Job("seq-read", "1 MiB sequential read, depth 4", "read", "1m", 4),
    Job("rand-read-1", "4 KiB random read, depth 1", "randread", "4k", 1),
    Job("rand-read-32", "4 KiB random read, depth 32", "randread", "4k", 32),
    Job("rand-write-1", "4 KiB random write, depth 1", "randwrite", "4k", 1),
    Job("rand-write-32", "4 KiB random write, depth 32", "randwrite", "4k", 32),
    Job("write-flush", "4 KiB random write + flush, depth 1", "randwrite", "4k", 1, fsync=True),
    Job("mixed-32", "4 KiB random, 70 % reads, depth 32", "randrw", "4k", 32),
    Job(
        "write-flush-16", "4 KiB random write + flush, 16 clients", "randwrite", "4k", 1,
        fsync=True, clients=16, ceiling=False,
    ),
    Job(
        "rand-read-load", "4 KiB random read, the same load for all", "randread", "4k", 32,
        load_of="rand-read-32", ceiling=False,
    ),
    Job(
        "rand-write-load", "4 KiB random write, the same load for all", "randwrite", "4k", 32,
        load_of="rand-write-32", ceiling=False,
    ),
    Job(
        "rand-write-copies", "4 KiB random write, depth 32, a copy each second", "randwrite", "4k",
        32, copies=True, ceiling=False,
    ),
    Job("seq-read-after", "1 MiB sequential read after random writes", "read", "1m", 4),
)
# fmt: on

# Every block once, so that no server reads holes or allocates what another has allocated.
FILL: Final = Job("fill", "fill", "write", "1m", 4)


def common_options() -> list[str]:
    """What every measured job has; named in the report."""
    return ["--norandommap", "--time_based", f"--ramp_time={RAMP_S:g}"]


def command(job: Job, uri: str, seconds: float, seed: int, output: str, rate: int = 0) -> list[str]:
    """The fio command of one measurement. The same seed gives every server the same offsets.

    `rate`: so many operations a second are offered, at moments that do not wait for answers.
    """
    return [
        *_base(job, uri, output),
        *common_options(),
        *([f"--rate_iops={rate}", "--rate_process=poisson"] if rate else []),
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
        *([f"--rwmixread={MIX_READS}"] if job.mixed else []),
        *([f"--numjobs={job.clients}", "--group_reporting"] if job.clients > 1 else []),
        "--output-format=json",
        f"--output={output}",
    ]
