"""Lines that a thread writes: in order, bounded, and never waited for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator

import pytest

from isochrone.world.lines import WRITE_BYTES, Lines

PIPE_BYTES = 4096


def say(count: int) -> str:
    return f"({count} lost)\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield reads, writes
    for file in (reads, writes):
        with contextlib.suppress(OSError):  # the test closed it
            os.close(file)


def read_until(reads: int, end: str) -> str:
    found = b""
    while not found.endswith(end.encode()):
        found += os.read(reads, 1 << 16)
    return found.decode()


def test_lines_come_in_order(pipe: tuple[int, int]) -> None:
    lines = Lines(pipe[1], say)
    for n in range(100):
        lines.write(f"{n}\n")
        lines.flush()
    assert lines.drain(10)
    assert os.read(pipe[0], 1 << 16).decode().split() == [str(n) for n in range(100)]


def test_a_reader_that_stalls_costs_the_oldest_lines(pipe: tuple[int, int]) -> None:
    lines = Lines(pipe[1], say, bytes_max=20 * WRITE_BYTES)
    line = "x" * 1000
    count = 4 * 20 * WRITE_BYTES // 1000
    for n in range(count):
        lines.write(f"{n:06} {line}\n")
    assert not lines.drain(0.0)
    found = read_until(pipe[0], f"{count - 1:06} {line}\n").splitlines()
    expected = lost = 0
    for text in found:  # where the thread was slow, there may be two gaps
        if text.startswith("("):
            lost += int(text.strip("()").split()[0])
        else:
            assert int(text[:6]) == expected + lost
            expected += 1
    assert expected + lost == count
    assert lost > count // 2
    assert lines.drain(10)


def test_what_waits_is_bounded(pipe: tuple[int, int]) -> None:
    lines = Lines(pipe[1], say, bytes_max=1000)
    for _ in range(5000):
        lines.write("y" * 99 + "\n")
        assert lines._bytes <= 1000
    assert sum(map(len, lines._waiting)) <= 1000


def test_a_line_longer_than_all_that_may_wait_is_dropped(pipe: tuple[int, int]) -> None:
    lines = Lines(pipe[1], say, bytes_max=1000)
    lines.write("z" * 2000)
    assert read_until(pipe[0], ")\n") == "(1 lost)\n"


def test_nobody_can_read_it_any_more(pipe: tuple[int, int]) -> None:
    lines = Lines(pipe[1], say)
    os.close(pipe[0])
    for _ in range(3):
        lines.write("nobody hears it\n")
        assert lines.drain(10)
    assert not lines._waiting


def test_whoever_shares_the_file_may_want_it_not_to_block(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    lines = Lines(pipe[1], say)
    text = "".join(f"{n}\n" for n in range(5000))
    lines.write(text)
    assert read_until(pipe[0], "4999\n") == text


def test_many_write_at_once(pipe: tuple[int, int]) -> None:
    lines = Lines(pipe[1], say)

    def work(name: int) -> None:
        for n in range(200):
            lines.write(f"{name} {n}\n")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    found: list[str] = []
    rest = b""
    while len(found) < 800:
        *whole, rest = (rest + os.read(pipe[0], 1 << 16)).split(b"\n")
        found += [line.decode() for line in whole]
    for thread in threads:
        thread.join()
    for name in range(4):
        mine = [line for line in found if line.startswith(f"{name} ")]
        assert mine == [f"{name} {n}" for n in range(200)]
