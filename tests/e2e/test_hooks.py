"""Copies of what holds still: frozen file systems, and a PostgreSQL under load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.control.process import Controller
from tests.e2e.conftest import NewVolume
from tests.e2e.mounts import check, disk, mounted, need_mounts
from tests.e2e.programs import environment, isochrone, run, until, uri

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "examples" / "hooks" / "postgresql.sh"


_waiting: list[subprocess.Popen[bytes]] = []  # for a thaw


@pytest.fixture(autouse=True)
def can_mount() -> Iterator[None]:
    need_mounts()
    yield
    while _waiting:
        assert _waiting.pop().wait(30) == 0, "everything is thawed in the end"


def cli(controller: Controller, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "isochrone", "--site", str(controller.directory), *words],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )


def frozen(root: Path) -> bool:
    """A frozen file system lets nobody write, and nobody end, for as long as it is frozen."""
    touch = subprocess.Popen(["touch", root / "try"])
    try:
        return touch.wait(0.5) != 0
    except subprocess.TimeoutExpired:
        _waiting.append(touch)
        return True


@contextmanager
def file_system(controller: Controller, name: str, folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    with disk(uri(controller, name), folder) as device:
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
        with mounted(device, folder) as root:
            yield root


def needs_recovery(device: str) -> bool:
    return "needs_recovery" in run("dumpe2fs", "-h", device)


def test_a_frozen_file_system_needs_no_recovery(
    controller: Controller, volume: NewVolume, folder: Path
) -> None:
    name = volume("64MiB")
    with file_system(controller, name, folder / "a") as root:
        (root / "file").write_bytes(b"x" * 100_000)  # nobody syncs it: freezing does
        isochrone(controller, "copy", "take", "--name", "as-is", "--writable", name)
        done = cli(
            controller, "-o", "json", "copy", "take", "--name", "frozen", "--writable",
            "--freeze", str(root), name,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["consistency"] == "filesystem"
        assert not frozen(root)
        for copy, dirty in (("as-is", True), ("frozen", False)):
            with disk(uri(controller, f"{name}@{copy}"), folder) as device:
                assert needs_recovery(device) == dirty
                if not dirty:
                    check("ext4", device)
                    with mounted(device, folder) as there:
                        assert (there / "file").read_bytes() == b"x" * 100_000
    for copy in ("as-is", "frozen"):
        isochrone(controller, "copy", "delete", copy)


REFUSED = [
    (["--hook", "sh -c 'exit 1'"], 11, "before it was ready; no copy was taken"),
    (["--hook", "sleep 600", "--deadline", "0.5"], 10, "was not ready within 0.5 s"),
    (["--hook", "sh -c 'echo ready; cat; exit 1'"], 11, "the copy was deleted again"),
    (["--freeze", "/nowhere"], 11, "no copy was taken"),
    (["--at-least", "filesystem"], 2, "nothing makes this copy consistent"),
    (["--hook", "'"], 2, "cannot be read"),
    (["--deadline", "0"], 2, "a deadline of 0 s is not possible"),
]


def test_no_copy_is_less_than_was_asked_for(
    controller: Controller, volume: NewVolume, folder: Path
) -> None:
    name = volume("64MiB")
    with file_system(controller, name, folder / "a") as root:
        for options, code, said in REFUSED:
            freeze = ["--freeze", str(root)] if "--hook" in options and code != 2 else []
            done = cli(controller, "copy", "take", "--name", "no", *options, *freeze, name)
            assert (done.returncode, said in done.stderr) == (code, True), done.stderr
            assert cli(controller, "copy", "show", "no").returncode == 3
            assert not frozen(root)


def test_a_copy_that_may_be_less_says_what_it_is(controller: Controller, volume: NewVolume) -> None:
    name = volume("64MiB")
    done = cli(
        controller, "-o", "json", "copy", "take", "--name", "less", "--at-least", "crash",
        "--hook", "sh -c 'echo ready; cat; exit 1'", name,
    )  # fmt: skip
    assert done.returncode == 0
    assert "did not hold still (exit code 1)" in done.stderr
    assert json.loads(done.stdout)["consistency"] == "crash"
    isochrone(controller, "copy", "delete", "less")


def test_nobody_stays_frozen_when_the_command_is_ended(
    controller: Controller, volume: NewVolume, folder: Path
) -> None:
    name = volume("64MiB")
    command = [
        *(sys.executable, "-m", "isochrone", "--site", str(controller.directory)),
        *("copy", "take", "--name", "no", "--freeze", str(folder / "a" / "mnt"), name),
    ]
    with file_system(controller, name, folder / "a") as root:
        for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
            os.sync()  # or the freezing would wait for the controller
            with stopped(controller):  # so that the copy takes as long as we like
                assert not frozen(root)
                process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment())
                until(lambda: frozen(root), what="the freezing")
                process.send_signal(number)
            process.communicate(timeout=30)
            until(lambda: not frozen(root), what="the thaw")


@contextmanager
def stopped(controller: Controller) -> Iterator[None]:
    os.kill(controller.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(controller.process.pid, signal.SIGCONT)


# -- a real database


def _bin() -> Path:
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


class Postgres:
    """A cluster of its own, run by the user that Debian has for it."""

    def __init__(self, data: Path, sockets: Path, port: int) -> None:
        self.data = data
        self.log = sockets / f"{port}.log"
        self.where = ("-h", str(sockets), "-p", str(port), "-U", "postgres")
        self._options = f"-k {sockets} -p {port} -c listen_addresses= -c shared_buffers=16MB"

    def start(self) -> None:
        self._do("pg_ctl", "start", "-w", "-t", "60", "-l", self.log, "-o", self._options)

    def stop(self) -> None:
        self._do("pg_ctl", "stop", "-m", "immediate")

    def _do(self, program: str, *words: str | Path) -> None:
        run("runuser", "-u", "postgres", "--", _bin() / program, "-D", self.data, *words)

    def initdb(self, wal: Path) -> None:
        self._do("initdb", "--waldir", wal, "-A", "trust", "-U", "postgres", "--no-sync")

    def ask(self, sql: str) -> str:
        words = (*self.where, "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql, "postgres")
        return run(_bin() / "psql", *words).strip()


@contextmanager
def numbered_writer(server: Postgres, folder: Path) -> Iterator[Path]:
    """Rows 1, 2, 3, … each in its own transaction; the file gets those that are committed."""
    script = folder / "numbers.sql"
    lines = (f"INSERT INTO numbers VALUES ({n}, repeat('x', 300));\n\\echo {n}" for n in _forever())
    script.write_text("\n".join(lines))
    done = folder / "done"
    with done.open("wb") as out:
        process = subprocess.Popen(
            [_bin() / "psql", *server.where, "-Xq", "-f", script, "postgres"],
            stdout=out,
            stderr=subprocess.DEVNULL,
        )
    try:
        yield done
    finally:
        process.kill()
        process.wait()


def _forever() -> range:
    return range(1, 200_000)


def _newest(done: Path) -> int:
    words = done.read_text().rsplit("\n", 1)[0].split()
    return int(words[-1]) if words else 0


def test_a_postgresql_under_load(controller: Controller, volume: NewVolume, folder: Path) -> None:
    """Data and WAL on two volumes, copied at one instant while rows are committed."""
    folder.chmod(0o755)
    sockets = folder / "sockets"
    sockets.mkdir()
    sockets.chmod(0o777)
    names = [volume("300MiB"), volume("300MiB")]
    isochrone(controller, "group", "create", "pg", *names)
    with ExitStack() as stack:
        data, wal = (
            stack.enter_context(file_system(controller, name, folder / where))
            for name, where in zip(names, ("data", "wal"), strict=True)
        )
        for root in (data, wal):
            run("chown", "postgres:", root)
        server = Postgres(data / "pg", sockets, 7001)
        server.initdb(wal / "pg")
        server.start()
        stack.callback(server.stop)
        server.ask("CREATE TABLE numbers (n int PRIMARY KEY, filler text)")
        with numbered_writer(server, folder) as done:
            until(lambda: _newest(done) >= 200, what="rows")
            before = _newest(done)
            hook = " ".join([str(HOOK), *server.where, "postgres"])
            taken = cli(
                controller, "-o", "json", "copy", "take", "--group", "pg", "--name", "app",
                "--writable", "--hook", hook, "--freeze", str(data), "--freeze", str(wal),
                "--deadline", "30",
            )  # fmt: skip
            assert taken.returncode == 0, taken.stderr
            assert json.loads(taken.stdout)["consistency"] == "application"
            issued = _newest(done) + 1
            until(lambda: _newest(done) > issued + 50, what="rows after the copy")
        assert server.ask("SELECT pg_is_in_recovery()") == "f"
    _compare(controller, names, folder, before, issued)
    isochrone(controller, "group", "delete", "pg", "--yes")
    isochrone(controller, "copy", "delete", "app")


def _compare(
    controller: Controller, names: list[str], folder: Path, before: int, issued: int
) -> None:
    """A server on the copy has all rows that were committed before, and none from after."""
    with ExitStack() as stack:
        roots = []
        for name, where in zip(names, ("data", "wal"), strict=True):
            place = folder / where
            device = stack.enter_context(disk(uri(controller, f"{name}@app"), place))
            assert not needs_recovery(device)
            check("ext4", device)
            roots.append(stack.enter_context(mounted(device, place)))
        (roots[0] / "pg" / "postmaster.pid").unlink()
        copy = Postgres(roots[0] / "pg", folder / "sockets", 7002)
        copy.start()
        stack.callback(copy.stop)
        newest = int(copy.ask("SELECT max(n) FROM numbers"))
        assert before <= newest <= issued
        assert int(copy.ask("SELECT count(*) FROM numbers")) == newest
        run(_bin() / "pg_amcheck", *copy.where, "--install-missing", "postgres")
