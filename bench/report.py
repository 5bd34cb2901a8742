"""From fio's JSON to a page: samples, medians, ratios, Markdown. Nothing here runs anything.

The page ends with a section "Reading", written by a person; a new page keeps the old one's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

READING: Final = "## Reading"
READING_EMPTY: Final = "Not written yet. This section is kept when the benchmark runs again."
MIB: Final = 1 << 20
NONE: Final = "–"  # not measured: this server cannot do it, or it would tell nothing


class FioError(ValueError):
    """fio ran, and what it measured cannot be used."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one job against one server."""

    operations: int  # reads or writes in the measured time
    iops: float
    bytes_per_s: float
    p99_us: float
    cpu_us: float = 0.0  # of the server, for one operation; 0 = not measured


@dataclass(frozen=True, slots=True)
class Summary:
    """All rounds of one figure."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Row:
    """A job as the page shows it; `samples` by title of the server, one a round."""

    title: str
    sequential: bool
    samples: Mapping[str, Sequence[Sample]]


def parse_fio(
    document: Mapping[str, Any], *, reads: bool, fsync: bool, mixed: bool = False
) -> Sample:
    """The figures of fio's only job. With `fsync` the latency is that of write plus flush.

    A mixed job is told by the rates of both sides together, and the p99 of its reads.
    """
    jobs = document.get("jobs", ())
    if len(jobs) != 1:
        raise FioError(f"fio reports {len(jobs)} jobs, not one")
    job = jobs[0]
    if job.get("error"):
        raise FioError(f"fio ended with error {job['error']}")
    side = job["read" if reads else "write"]
    if not side["total_ios"]:
        raise FioError("fio measured nothing: the time is too short")
    sides = [job["read"], job["write"]] if mixed else [side]
    p99_ns = _p99_ns(side["clat_ns"])
    if fsync:
        # Two percentiles do not add up; the flush is nearly all of it, so the sum errs little,
        # and to the same side for everybody.
        p99_ns += _p99_ns(job["sync"]["lat_ns"])
    return Sample(
        operations=sum(int(one["total_ios"]) for one in sides),
        iops=sum(float(one["iops"]) for one in sides),
        bytes_per_s=sum(float(one["bw_bytes"]) for one in sides),
        p99_us=p99_ns / 1000,
    )


def _p99_ns(latency: Mapping[str, Any]) -> float:
    return float(latency["percentile"]["99.000000"])


def summarise(values: Sequence[float]) -> Summary:
    return Summary(median(values), min(values), max(values))


def rate(row: Row, server: str) -> Summary:
    """What the job is measured in: bytes a second if sequential, else operations a second."""
    samples = row.samples[server]
    return summarise([s.bytes_per_s if row.sequential else s.iops for s in samples])


def ratios(row: Row, ours: str, peers: Sequence[str]) -> dict[str, float]:
    """Our median over that of each peer; above 1 we are faster."""
    own = rate(row, ours).median
    return {peer: own / rate(row, peer).median for peer in peers if row.samples.get(peer)}


def shown_rate(summary: Summary, *, sequential: bool) -> str:
    """Median and spread in one cell."""
    if sequential:
        middle, least, most = (
            f"{v / MIB:,.0f}" for v in (summary.median, summary.least, summary.most)
        )
        return f"{middle} MiB/s ({least}–{most})"
    middle, least, most = (
        f"{v / 1000:.1f}" if summary.median >= 1000 else f"{v / 1000:.2f}"
        for v in (summary.median, summary.least, summary.most)
    )
    return f"{middle} k/s ({least}–{most})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def rate_table(rows: Sequence[Row], ours: str, peers: Sequence[str], others: Sequence[str]) -> str:
    """Medians and spread of all servers, and our ratio to each peer and to the best of them."""
    shown = [ours, *peers, *others]
    body = []
    for row in rows:
        own = ratios(row, ours, peers)
        body.append(
            [
                row.title,
                *(
                    shown_rate(rate(row, s), sequential=row.sequential)
                    if row.samples.get(s)
                    else NONE
                    for s in shown
                ),
                *(f"{own[peer]:.2f}" if peer in own else NONE for peer in peers),
                f"**{min(own.values()):.2f}**",
            ]
        )
    return table(["job", *shown, *(f"× {peer}" for peer in peers), "× best peer"], body)


def cost_table(rows: Sequence[Row], servers: Sequence[str]) -> str:
    """99th percentile of the latency, and processor time of the server, for one operation."""
    body = []
    for row in rows:
        rounds = [row.samples.get(name) for name in servers]
        p99 = [f"{median(s.p99_us for s in found):,.0f}" if found else NONE for found in rounds]
        cpu = [f"{median(s.cpu_us for s in found):,.1f}" if found else NONE for found in rounds]
        body.append([row.title, *p99, *cpu])
    head = ["job", *(f"p99 {name}" for name in servers), *(f"CPU {name}" for name in servers)]
    return table(head, body)


def kept_reading(old_page: str) -> str:
    """What a person wrote under "Reading" in the page that is about to be replaced."""
    _, found, text = old_page.partition(f"\n{READING}\n")
    return text.strip() if found and text.strip() else READING_EMPTY


def page(
    facts: Sequence[tuple[str, str]],
    rows: Sequence[Row],
    ours: str,
    peers: Sequence[str],
    others: Sequence[str],
    reading: str,
) -> str:
    """The whole of RESULTS.md."""
    parts = [
        "# Results of the benchmark",
        "Written by `make bench`; what the columns mean is in README.md beside this file. The store"
        " without the front door is measured in POOL.md.",
        "\n".join(f"- {name}: {value}" for name, value in facts),
        "## Rates",
        "Median of the rounds (least–most). × is our median over that of the peer: "
        "above 1 Isochrone is faster.",
        rate_table(rows, ours, peers, others),
        "## Latency and processor time",
        "Medians of the rounds, microseconds for one operation. CPU is the server's, "
        "user and system.",
        cost_table(rows, [ours, *peers, *others]),
        READING,
        reading,
    ]
    return "\n\n".join(parts) + "\n"
