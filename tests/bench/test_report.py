"""The pure parts of the benchmark: figures of a recorded fio run, and the page made of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from bench import jobs, report
from bench.report import Row, Sample, Summary

RECORDED = json.loads((Path(__file__).parent / "fio_write_flush.json").read_text())


P99 = "99.000000"  # as fio names it


def sample(iops: float, *, size: int = 4096, p99: float = 100.0, cpu: float = 10.0) -> Sample:
    return Sample(int(iops), iops, iops * size, p99, cpu)


def row(*, sequential: bool = False, **servers: list[float]) -> Row:
    size = 1 << 20 if sequential else 4096
    return Row(
        "a job", sequential, {k: [sample(v, size=size) for v in s] for k, s in servers.items()}
    )


# -- fio's JSON


def test_a_recorded_run() -> None:
    found = report.parse_fio(RECORDED, reads=False, fsync=False)
    assert found.operations == 677
    assert found.iops == pytest.approx(675.648703)
    assert found.bytes_per_s == 2767456
    assert found.p99_us == pytest.approx(2310.144)


def test_a_flush_counts_into_the_latency() -> None:
    found = report.parse_fio(RECORDED, reads=False, fsync=True)
    assert found.p99_us == pytest.approx(2310.144 + 8585.216)


def test_the_idle_side_is_refused() -> None:
    with pytest.raises(report.FioError, match="measured nothing"):
        report.parse_fio(RECORDED, reads=True, fsync=False)


def test_a_mixed_job_is_told_by_both_sides() -> None:
    side = {"total_ios": 7, "iops": 70.0, "bw_bytes": 700, "clat_ns": {"percentile": {P99: 7000}}}
    other = {"total_ios": 3, "iops": 30.0, "bw_bytes": 300, "clat_ns": {"percentile": {P99: 9000}}}
    document = {"jobs": [{"error": 0, "read": side, "write": other}]}
    found = report.parse_fio(document, reads=True, fsync=False, mixed=True)
    assert found == report.Sample(10, 100.0, 1000.0, 7.0)


def test_an_error_of_fio_is_refused() -> None:
    document = copy.deepcopy(RECORDED)
    document["jobs"][0]["error"] = 5
    with pytest.raises(report.FioError, match="error 5"):
        report.parse_fio(document, reads=False, fsync=False)


@pytest.mark.parametrize("jobs_found", [[], RECORDED["jobs"] * 2])
def test_one_job_is_expected(jobs_found: list) -> None:
    with pytest.raises(report.FioError, match="not one"):
        report.parse_fio({"jobs": jobs_found}, reads=False, fsync=False)


# -- figures


def test_the_median_ignores_one_bad_round() -> None:
    assert report.summarise([10.0, 1.0, 11.0, 12.0, 10.5]) == Summary(10.5, 1.0, 12.0)
    assert report.summarise([1.0, 2.0]).median == 1.5


def test_sequential_jobs_are_measured_in_bytes() -> None:
    assert report.rate(row(a=[7.0]), "a").median == 7.0
    assert report.rate(row(a=[7.0], sequential=True), "a").median == 7 << 20


def test_ratios_are_ours_over_theirs() -> None:
    found = report.ratios(
        row(us=[30.0, 20.0, 10.0], slow=[10.0], fast=[40.0]), "us", ["slow", "fast"]
    )
    assert found == {"slow": 2.0, "fast": 0.5}


@pytest.mark.parametrize(
    ("summary", "sequential", "cell"),
    [
        (Summary(41234.0, 39000.0, 43100.0), False, "41.2 k/s (39.0–43.1)"),
        (Summary(677.0, 600.0, 1700.0), False, "0.68 k/s (0.60–1.70)"),
        (Summary(1500 << 20, 900 << 20, 1600 << 20), True, "1,500 MiB/s (900–1,600)"),
    ],
)
def test_a_cell(summary: Summary, sequential: bool, cell: str) -> None:
    assert report.shown_rate(summary, sequential=sequential) == cell


# -- Markdown


def test_a_table() -> None:
    assert report.table(["job", "x"], [["a", "1"]]) == "| job | x |\n| --- | ---: |\n| a | 1 |"


def test_the_best_peer_is_the_one_that_beats_us_most() -> None:
    text = report.rate_table(
        [row(us=[2000.0], slow=[1000.0], fast=[4000.0], ceiling=[9000.0])],
        "us",
        ["slow", "fast"],
        ["ceiling"],
    )
    head, _, line = text.splitlines()
    assert head == "| job | us | slow | fast | ceiling | × slow | × fast | × best peer |"
    assert line.endswith("| 9.0 k/s (9.0–9.0) | 2.00 | 0.50 | **0.50** |")


def test_who_cannot_do_a_job_has_no_figure() -> None:
    told = row(us=[2000.0], able=[1000.0], unable=[])
    line = report.rate_table([told], "us", ["able", "unable"], []).splitlines()[-1]
    assert line.endswith("| 1.0 k/s (1.0–1.0) | – | 2.00 | – | **2.00** |")
    assert report.cost_table([told], ["us", "unable"]).splitlines()[-1].count("–") == 2


def test_costs_are_medians() -> None:
    rounds = [
        sample(1.0, p99=p99, cpu=cpu) for p99, cpu in ((1000.0, 1.0), (2000.0, 2.5), (9e6, 9.0))
    ]
    text = report.cost_table([Row("a job", False, {"us": rounds})], ["us"])
    assert text.splitlines()[-1] == "| a job | 2,000 | 2.5 |"


def test_what_a_person_wrote_is_kept() -> None:
    def page(reading: str) -> str:
        return report.page([("date", "today")], [row(us=[1.0], x=[1.0])], "us", ["x"], [], reading)

    first = page(report.kept_reading(""))
    assert report.READING_EMPTY in first
    assert "- date: today" in first
    written = first.replace(report.READING_EMPTY, "Slower here.\n\n## Because\n\nof reasons.\n")
    assert page(report.kept_reading(written)).rstrip() == written.rstrip()


# -- jobs


def test_jobs_have_names_of_their_own_and_the_damaging_one_comes_last() -> None:
    names = [job.name for job in jobs.JOBS]
    assert len(set(names)) == len(names)
    assert names[0] == "seq-write"
    assert names[-1] == "seq-read-after"


def test_a_load_is_known_before_it_is_offered() -> None:
    names = [job.name for job in jobs.JOBS]
    loaded = [job for job in jobs.JOBS if job.load_of]
    assert loaded
    for job in loaded:
        assert names.index(job.load_of) < names.index(job.name)
        words = jobs.command(job, "nbd+unix:///?socket=s", 3.0, 7, "out.json", 12345)
        assert "--rate_iops=12345" in words


def test_many_clients_are_told_as_one() -> None:
    job = next(job for job in jobs.JOBS if job.clients > 1)
    words = jobs.command(job, "nbd+unix:///?socket=s", 3.0, 7, "out.json")
    assert {f"--numjobs={job.clients}", "--group_reporting"} <= set(words)


def test_a_command_measures_what_the_job_says() -> None:
    job = next(job for job in jobs.JOBS if job.fsync)
    words = jobs.command(job, "nbd+unix:///?socket=s", 3.0, 7, "out.json")
    assert {"--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"} <= set(words)
    assert {"--runtime=3", "--randseed=7"} <= set(words)
    assert words.index("--ioengine=nbd") < words.index("--uri=nbd+unix:///?socket=s")
