"""The house rules, held by a test instead of by reviewers.

Each rule is a function from source to complaints, so that the end of this file can feed it a bad
snippet and see it complain. The tables at the top are the whole configuration: exceptions carry a
reason, and the three ratchets may only shrink.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = ROOT / "src" / "isochrone"

# -- configuration

FILE_LINES_MAX: Final = 600
FUNCTION_LINES_MAX: Final = 70
MAKEFILE_LINES_MAX: Final = 60

# Ratchets: today's debts. An entry that grew, or is no longer needed, fails.
LONG_FILES: Final[dict[str, int]] = {}  # "store/pool.py": lines
LONG_FUNCTIONS: Final[dict[str, int]] = {}  # "store/pool.py:Pool.open": lines
UNTESTED: Final[frozenset[str]] = frozenset()  # "world/clock.py"

# Who may import whom. A room may always import itself and the bare package.
NOUNS: Final = frozenset({"types", "errors"})
BASE: Final = NOUNS | {"world"}
LADDER: Final[dict[str, frozenset[str]]] = {
    "types": frozenset(),
    "errors": frozenset({"types"}),
    "world": NOUNS,
    "nbd": BASE,
    "store": BASE,
    "mirror": BASE | {"store"},
    "dr": BASE | {"store", "mirror"},
    "backup": BASE | {"store", "mirror"},
    "control": BASE | {"nbd", "store", "mirror", "dr", "backup"},
    "sim": BASE | {"nbd", "store", "mirror", "dr", "backup"},
    "__main__": frozenset({"control"}),
}

# Bytes in, events out; time is an argument. These must run without a loop.
SANS_IO: Final = frozenset(
    {
        "nbd/connection.py",
        "nbd/handshake.py",
        "nbd/inbox.py",
        "nbd/transmission.py",
        "nbd/turn.py",
        "nbd/wire.py",
        "mirror/bandwidth.py",
        "mirror/link.py",
        "mirror/packing.py",
        "mirror/wire.py",
        "mirror/history.py",
        "mirror/limits.py",
        "mirror/moves.py",
        "mirror/pairs.py",
        "mirror/sessions.py",
        "mirror/tally.py",
        "mirror/sidefile.py",
        "dr/plan.py",
        "store/format.py",
        "store/labels.py",
        "store/points.py",
        "store/retention.py",
        "store/schedule.py",
        "store/tracks.py",
    }
)
FORMAT_FILES: Final = frozenset({"wire.py", "format.py"})  # the only ones that call struct
DRAWERS: Final = frozenset(
    [
        *("util", "utils", "helper", "helpers", "common", "misc", "core"),
        *("manager", "managers", "interfaces"),
    ]
)

# The doors of world/, and what goes through each. A name ending in a dot stands for all below it;
# with () only the call counts, so that the type can still be named.
DOORS: Final[dict[str, tuple[str, ...]]] = {
    "clock": (
        *("time.", "asyncio.sleep", "datetime.datetime.now", "datetime.datetime.utcnow"),
        *("datetime.datetime.today", "datetime.date.today"),
    ),
    "dice": ("random.", "secrets.", "uuid.uuid1", "uuid.uuid4", "os.urandom", "os.getrandom"),
    "disk": (
        *("open()", "io.open", "os.open", "os.fdopen"),
        *("os.read", "os.readv", "os.pread", "os.preadv"),
        *("os.write", "os.writev", "os.pwrite", "os.pwritev", "os.fsync", "os.fdatasync"),
        *("os.sync", "os.truncate", "os.ftruncate", "os.posix_fallocate", "os.sendfile"),
        *("os.copy_file_range", "os.listdir", "os.scandir", "os.walk", "os.mkdir", "os.makedirs"),
        *("os.remove", "os.unlink", "os.rmdir", "os.rename", "os.replace", "os.link", "os.symlink"),
        *("os.stat", "os.statvfs", "os.chmod", "os.path.exists", "os.path.getsize"),
        *("shutil.", "tempfile.", "fcntl.", "mmap.", "sqlite3.", "apsw.Connection()"),
    ),
    "net": (
        *("socket.", "selectors.", "socketserver.", "http.client.", "urllib.request.", "httpx2."),
        *("asyncio.open_connection", "asyncio.open_unix_connection"),
        *("asyncio.start_server", "asyncio.start_unix_server"),
    ),
    "work": (
        *("threading.", "concurrent.futures.", "multiprocessing.", "subprocess."),
        *("asyncio.to_thread", "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"),
        *("os.fork", "os.system", "os.popen"),
    ),
}
# The same by method, where the object cannot be known from the text.
DOOR_METHODS: Final[dict[str, tuple[str, ...]]] = {
    "disk": (
        *("read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "rmdir", "unlink"),
        *("touch", "iterdir", "chmod", "symlink_to", "hardlink_to"),
    ),
    "net": (
        *("create_connection", "create_unix_connection", "create_server", "create_unix_server"),
        *("create_datagram_endpoint", "sock_recv", "sock_recv_into", "sock_sendall"),
    ),
    "work": ("run_in_executor",),
}
# (file, door): why it may. An entry its file does not need any more fails.
ALLOWED: Final[dict[tuple[str, str], str]] = {
    ("nbd/server.py", "net"): "asyncio transports are the front door; a channel would cost it half",
    ("control/sockets.py", "net"): "opens the daemon's listening sockets, before it says ready",
    ("control/sockets.py", "disk"): "the socket files of the daemon",
    ("control/exports.py", "disk"): "the operator's own file; no pool and no simulation has one",
    ("control/notify.py", "net"): "one datagram to the service manager",
    ("control/client.py", "net"): "a client of the API, outside any pool and any simulation",
    ("sim/scenario.py", "clock"): "the conductor stands outside the sites, in virtual time anyway",
    ("sim/keeping.py", "clock"): "the same conductor",
    ("sim/__main__.py", "clock"): "tells how long the run took",
    ("sim/__main__.py", "work"): "runs seeds in several processes",
}
# A name that carries its own seed is no dice: the whole run follows from it.
SEEDED: Final[dict[str, frozenset[str]]] = {"sim": frozenset({"random", "random.Random"})}

# Folders of one machine; split so that this file passes its own rule.
MACHINE_PATH: Final = re.compile(r"(?<![\w.$}~-])/" + r"(?:work|home|root)(?![\w-])")
TEXT_FILES: Final = (
    "Makefile",
    "pyproject.toml",
    "requirements.lock",
    "*.md",
    ".ci/*",
    "scripts/*",
)
TEXT_FOLDERS: Final = ("src", "tests", "docs", "demo", "bench")
TEXT_SUFFIXES: Final = frozenset(
    {"", ".py", ".md", ".rst", ".txt", ".toml", ".json", ".html", ".css", ".js", ".sh", ".svg"}
)


# -- reading source


class Source(NamedTuple):
    name: str  # relative to the package: "store/log.py"
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The first folder, or the stem of a top-level module; "" for the package itself."""
        first = self.name.split("/")[0].removesuffix(".py")
        return "" if first == "__init__" else first


def parse(name: str, text: str) -> Source:
    return Source(name, text, ast.parse(text, name))


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported, wherever in the file it happens."""
    package = ["isochrone", *source.name.split("/")[:-1]]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            if called.endswith(("import_module", "__import__")):
                argument = node.args[0]
                constant = isinstance(argument, ast.Constant)
                yield node.lineno, str(argument.value) if constant else ast.unparse(argument)


def used_names(source: Source) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every use, with local names traced back through the imports."""
    known: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
                first = alias.name.split(".")[0]
                known[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute):
            first, dot, rest = ast.unparse(node).partition(".")
            if first in known:
                yield node.lineno, known[first] + dot + rest
        elif isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            if first in known or not dot:
                yield node.lineno, known.get(first, first) + dot + rest + "()"


def functions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, int]]:
    """(qualified name, lines) of every function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield within + node.name, (node.end_lineno or node.lineno) - node.lineno + 1
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from functions(node, f"{within}{node.name}." if named else within)


# -- the rules


def ladder(source: Source) -> list[str]:
    if source.room and source.room not in LADDER:
        return [f"{source.name}: {source.room!r} has no place on the ladder; give it one in LADDER"]
    complaints = []
    for line, name in imports(source):
        package, _, rest = name.partition(".")
        room = rest.split(".")[0]
        if package != "isochrone" or room in ("", source.room) or room.startswith("__version"):
            continue
        if room not in LADDER.get(source.room, frozenset()):
            complaints.append(
                f"{source.name}:{line} imports {name}; imports go one way, and"
                f" {source.room or 'the package'} may use only"
                f" {', '.join(sorted(LADDER.get(source.room, frozenset()))) or 'nothing'}"
            )
    return complaints


def doors_used(source: Source) -> Iterator[tuple[int, str, str]]:
    """(line, door, name) of everything that reaches outside."""
    seeded = SEEDED.get(source.room, frozenset())
    for line, name in used_names(source):
        for door, names in DOORS.items():
            if name.endswith("()"):
                reaches = name in names
            else:
                reaches = any(
                    (name + ".").startswith(n) if n[-1] == "." else name == n for n in names
                )
            if reaches and name not in seeded:
                yield line, door, name
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            for door, methods in DOOR_METHODS.items():
                if node.func.attr in methods:
                    yield node.lineno, door, f".{node.func.attr}()"


def doors(source: Source) -> list[str]:
    if source.room == "world":
        return []
    return [
        f"{source.name}:{line} uses {name}: that goes through world/{door}, or it cannot be"
        f" simulated; an exception needs a reason in ALLOWED"
        for line, door, name in doors_used(source)
        if (source.name, door) not in ALLOWED
    ]


def idle_allowances(source: Source) -> list[str]:
    used = {door for _, door, _ in doors_used(source)}
    return [
        f"{file} does not use world/{door} any more: take its entry out of ALLOWED"
        for file, door in ALLOWED
        if file == source.name and door not in used
    ]


def sans_io(source: Source) -> list[str]:
    if source.name not in SANS_IO:
        return []
    return [
        f"{source.name}:{line} imports {name}: this file is bytes in, events out, time as argument"
        for line, name in imports(source)
        if name.split(".")[0] in ("asyncio", "socket", "uvloop", "selectors", "ssl")
    ]


def only_formats_pack(source: Source) -> list[str]:
    if source.name.rpartition("/")[2] in FORMAT_FILES:
        return []
    return [
        f"{source.name}:{line} imports struct: bytes are laid out in a room's wire.py or format.py"
        for line, name in imports(source)
        if name.split(".")[0] == "struct"
    ]


def over(name: str, lines: int, limit: int, debts: dict[str, int], table: str) -> list[str]:
    """Complaints of one ratchet about one thing."""
    debt = debts.get(name)
    if debt is None:
        return [f"{name} has {lines} lines, over {limit}: split it"] if lines > limit else []
    if lines <= limit:
        return [f"{name} has only {lines} lines now: take it out of {table}"]
    return [f"{name} grew from {debt} to {lines} lines: split it"] if lines > debt else []


def sizes(source: Source) -> list[str]:
    lines = source.text.count("\n")
    complaints = over(source.name, lines, FILE_LINES_MAX, LONG_FILES, "LONG_FILES")
    for name, count in functions(source.tree):
        full = f"{source.name}:{name}"
        complaints += over(full, count, FUNCTION_LINES_MAX, LONG_FUNCTIONS, "LONG_FUNCTIONS")
    return complaints


def drawers(source: Source) -> list[str]:
    parts = source.name.removesuffix(".py").split("/")
    return [
        f"{source.name}: {part!r} is a drawer, not a noun of the domain; name what is in it"
        for part in parts
        if part in DRAWERS
    ]


def docstring(source: Source) -> list[str]:
    hidden = source.name.rpartition("/")[2].startswith("_") and "__" not in source.name
    if hidden or not source.tree.body or ast.get_docstring(source.tree):
        return []
    return [f"{source.name} does not say what it is for: begin it with a docstring"]


def named_test(source: Source) -> str:
    """tests/<room>/test_<module>.py; the file of a room's own __init__ is named after the room."""
    folder, _, stem = source.name.removesuffix(".py").rpartition("/")
    stem = folder.rpartition("/")[2] if stem == "__init__" else stem.strip("_")
    return "/".join(p for p in ("tests", folder, f"test_{stem}.py") if p)


def has_code(source: Source) -> bool:
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for node in source.tree.body
    )


def missing_test(source: Source, root: Path, untested: frozenset[str]) -> list[str]:
    wanted = named_test(source)
    missing = has_code(source) and not (root / wanted).exists()
    if missing and source.name not in untested:
        return [f"{source.name} has no {wanted}"]
    if not missing and source.name in untested:
        return [f"{source.name} has {wanted}, or needs none: take it out of UNTESTED"]
    return []


def machine_paths(name: str, text: str) -> list[str]:
    return [
        f"{name}:{number} names a folder of somebody's machine: {line.strip()[:80]}"
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]


# -- the product obeys them

SOURCES: Final = [
    parse(path.relative_to(PACKAGE).as_posix(), path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
]
RULES: Final = (
    *(ladder, doors, idle_allowances, sans_io, only_formats_pack),
    *(sizes, drawers, docstring),
)


def report(complaints: list[str]) -> None:
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_source(rule) -> None:
    report([complaint for source in SOURCES for complaint in rule(source)])


def test_every_module_has_its_test() -> None:
    report([complaint for source in SOURCES for complaint in missing_test(source, ROOT, UNTESTED)])


def test_ratchets_name_what_exists() -> None:
    files = {source.name for source in SOURCES}
    named = {f"{s.name}:{name}" for s in SOURCES for name, _ in functions(s.tree)}
    gone = (set(LONG_FILES) | UNTESTED) - files | set(LONG_FUNCTIONS) - named
    report([f"{name} is gone: take it out of its ratchet" for name in sorted(gone)])


def texts() -> Iterator[Path]:
    for pattern in TEXT_FILES:
        yield from (path for path in ROOT.glob(pattern) if path.is_file())
    for folder in TEXT_FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts:
                yield path


def test_no_machine_paths() -> None:
    report(
        [
            complaint
            for path in texts()
            for complaint in machine_paths(
                path.relative_to(ROOT).as_posix(), path.read_text(errors="replace")
            )
        ]
    )


def test_makefile_stays_small() -> None:
    lines = (ROOT / "Makefile").read_text().count("\n")
    assert lines < MAKEFILE_LINES_MAX, "the Makefile only names commands; scripts hold the steps"


# -- the rules can fail


@pytest.mark.parametrize(
    ("rule", "name", "text", "word"),
    [
        (ladder, "store/log.py", "import isochrone.mirror.link", "one way"),
        (ladder, "store/log.py", "from isochrone.mirror import link", "one way"),
        (ladder, "store/log.py", "from isochrone import mirror", "one way"),
        (ladder, "store/log.py", "from ..mirror import link", "one way"),
        (ladder, "store/log.py", "def f():\n    import isochrone.sim", "log.py:2"),
        (ladder, "store/log.py", "import importlib as i\ni.import_module('isochrone.dr')", "dr"),
        (ladder, "nbd/server.py", "from isochrone.store import pool", "one way"),
        (ladder, "control/cli.py", "from isochrone.sim import world", "one way"),
        (ladder, "sim/faults.py", "from isochrone.control import service", "one way"),
        (ladder, "attic/old.py", "", "no place"),
        (doors, "store/log.py", "import time", "world/clock"),
        (doors, "store/log.py", "from asyncio import sleep as nap", "world/clock"),
        (doors, "store/log.py", "from datetime import datetime as d\nd.now()", "world/clock"),
        (doors, "store/log.py", "import os as o\no.pwrite(1, b'', 0)", "world/disk"),
        (doors, "store/log.py", "open('x')", "world/disk"),
        (doors, "store/log.py", "def f(p):\n    p.write_text('')", "world/disk"),
        (doors, "store/log.py", "import apsw\napsw.Connection('x')", "world/disk"),
        (doors, "mirror/mover.py", "import socket", "world/net"),
        (doors, "mirror/mover.py", "def f(loop):\n    loop.create_server(f)", "world/net"),
        (doors, "mirror/mover.py", "import asyncio\nasyncio.to_thread(f)", "world/work"),
        (doors, "mirror/mover.py", "import random\nrandom.Random(1)", "world/dice"),
        (doors, "sim/faults.py", "import random\nrandom.random()", "world/dice"),
        (doors, "nbd/server.py", "import time", "world/clock"),
        (idle_allowances, "nbd/server.py", "", "ALLOWED"),
        (sans_io, "nbd/connection.py", "import asyncio", "bytes in"),
        (sans_io, "mirror/link.py", "def f():\n    from socket import socket", "link.py:2"),
        (only_formats_pack, "store/log.py", "from struct import Struct", "wire.py"),
        (sizes, "store/log.py", "x = 1\n" * 601, "601"),
        (sizes, "a.py", "class C:\n  def f(self):\n" + "    pass\n" * 70, "a.py:C.f has 71"),
        (drawers, "store/utils.py", "", "drawer"),
        (drawers, "helpers/log.py", "", "drawer"),
        (docstring, "store/log.py", "x = 1", "docstring"),
    ],
)
def test_a_rule_complains(rule, name: str, text: str, word: str) -> None:
    complaints = rule(parse(name, text))
    assert complaints, "the rule let a bad snippet pass"
    assert word in complaints[0]


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (ladder, "store/log.py", "from isochrone.world.disk import Disk\nimport isochrone.types"),
        (ladder, "store/log.py", "from . import format\nfrom isochrone import __version__"),
        (ladder, "control/service.py", "from isochrone.nbd import server"),
        (doors, "world/clock.py", "import time"),
        (doors, "store/log.py", "import os\nos.path.join('a', 'b')\n'a'.replace('a', 'b')"),
        (doors, "store/log.py", "def f(disk):\n    disk.open('x')\n    open_files = 1"),
        (
            doors,
            "store/log.py",
            "import apsw\ndef f(c: apsw.Connection): ...",
        ),
        (doors, "sim/faults.py", "import random\nrandom.Random(7)"),
        (sans_io, "nbd/server.py", "import asyncio"),
        (only_formats_pack, "mirror/wire.py", "import struct"),
        (docstring, "store/__init__.py", ""),
    ],
)
def test_a_rule_lets_good_code_pass(rule, name: str, text: str) -> None:
    assert rule(parse(name, text)) == []


def test_a_ratchet_turns_one_way() -> None:
    assert over("a.py", 650, 600, {"a.py": 660}, "T") == []
    assert "grew" in over("a.py", 670, 600, {"a.py": 660}, "T")[0]
    assert "take it out" in over("a.py", 600, 600, {"a.py": 660}, "T")[0]


def test_a_module_without_a_test_is_found(tmp_path: Path) -> None:
    source = parse("store/log.py", "def f(): ...")
    assert missing_test(source, tmp_path, frozenset()) == [
        "store/log.py has no tests/store/test_log.py"
    ]
    assert missing_test(source, tmp_path, frozenset({"store/log.py"})) == []
    (tmp_path / "tests" / "store").mkdir(parents=True)
    (tmp_path / "tests" / "store" / "test_log.py").touch()
    assert missing_test(source, tmp_path, frozenset()) == []
    assert "take it out" in missing_test(source, tmp_path, frozenset({"store/log.py"}))[0]


def test_names_of_test_files() -> None:
    assert named_test(parse("types.py", "")) == "tests/test_types.py"
    assert named_test(parse("world/__init__.py", "")) == "tests/world/test_world.py"
    assert named_test(parse("sim/__main__.py", "")) == "tests/sim/test_main.py"


@pytest.mark.parametrize("folder", ["work", "home", "root"])
def test_a_machine_path_is_found(folder: str) -> None:
    assert machine_paths("x.md", f"see /{folder}/somebody/notes")
    assert machine_paths("x.md", f"cd '/{folder}'")
    assert not machine_paths("x.md", f"https://example.org/{folder}/page, a/{folder}, ~/{folder}")
