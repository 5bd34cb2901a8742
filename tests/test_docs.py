"""The manual is complete and true: commands, options, errors, limits, links.

What is found wrong here is mended in `docs/`, or in the code if that is what is wrong.
"""

from __future__ import annotations

import ast
import errno
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from isochrone.control.audit import AUDIT_NAME
from isochrone.control.cli import isochrone
from isochrone.control.exports import EXPORTS_NAME
from isochrone.control.sockets import SOCKETS
from isochrone.errors import IsochroneError
from isochrone.store.metadata import ITEM_KINDS
from isochrone.store.records import Record
from isochrone.types import GIB, KIB, MIB, TIB
from isochrone.world.disk import BACKUP_NAME, LOCK_NAME, METADATA_NAME

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = ROOT / "src" / "isochrone"
OPERATING: Final = ROOT / "docs" / "operating.md"
ARCHITECTURE: Final = ROOT / "docs" / "ARCHITECTURE.md"
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

# An operator may meet the bounds of these; the others bound what nobody outside sees.
MODULES_IN_THE_MANUAL: Final = (
    "types.py",
    "control/*.py",
    "mirror/*.py",
    "nbd/client.py",
    "nbd/server.py",
    "nbd/transmission.py",
    "store/copies.py",
    "store/differences.py",
    "store/holds.py",
    "store/labels.py",
    "store/points.py",
    "store/schedule.py",
    "store/scheduler.py",
    "store/schedules.py",
    "store/names.py",
    "store/catalogue.py",
    "store/overwrite.py",
    "store/overlaps.py",
    "store/relations.py",
    "world/net.py",
)
UNITS: Final = {"": 1, "s": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}


# -- commands


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        here = f"{path} {name}"
        if isinstance(command, click.Group):
            yield from commands(command, here)
        else:
            yield here, command


COMMANDS: Final = dict(commands(isochrone, "isochrone"))


def options(command: click.Command) -> set[str]:
    return {
        text
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for text in parameter.opts
    }


COMMON: Final = options(isochrone) | {"--version", "--help"}


@pytest.mark.parametrize("path", COMMANDS)
def test_command(path: str) -> None:
    """One line of the synopsis for each command, with all its arguments and options, no others."""
    lines = re.findall(rf"^{path}(?: (?!<).*)?$", synopsis(), re.MULTILINE)
    assert len(lines) == 1, f"docs/operating.md has {len(lines)} lines for `{path}`"
    documented = set(re.findall(r"--[a-z-]+", lines[0]))
    assert documented == options(COMMANDS[path]) - COMMON
    arguments = [p for p in COMMANDS[path].params if isinstance(p, click.Argument)]
    context = click.Context(COMMANDS[path])
    wanted = [argument.make_metavar(context) for argument in arguments]
    words = re.sub(r"\[?--[a-z-]+(?: [A-Z:]+)?\]?", "", lines[0].removeprefix(path)).split()
    assert words == wanted


def synopsis() -> str:
    """The block of the manual that lists the commands."""
    return OPERATING.read_text().partition("```text\n")[2].partition("```")[0]


def test_no_command_is_made_up() -> None:
    named = [line for line in synopsis().splitlines() if line]
    assert len(named) == len(COMMANDS)


@pytest.mark.parametrize("option", sorted(COMMON - {"-h"}))
def test_common_option(option: str) -> None:
    assert f"`{option}" in OPERATING.read_text()


# -- errors


def kinds(kind: type[IsochroneError]) -> list[type[IsochroneError]]:
    return [kind, *(deep for below in kind.__subclasses__() for deep in kinds(below))]


ERRORS: Final = [
    kind for kind in kinds(IsochroneError) if kind.__module__ == IsochroneError.__module__
]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_error(kind: type[IsochroneError]) -> None:
    row = (
        f"| {kind.exit_code} | `{kind.__name__}` | {kind.http_status}"
        f" | {errno.errorcode[kind.errno]} |"
    )
    assert row in OPERATING.read_text(), f"docs/operating.md needs a row: {row} … |"


def test_no_error_is_made_up() -> None:
    rows = re.findall(r"^\| \d+ \| `(\w+)` \| \d+ \| E\w+ \|", OPERATING.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(kind.__name__ for kind in ERRORS)


# -- limits


def limit_rows(page: Path) -> list[tuple[str, str, str]]:
    """(constant, module, value) of each row of a page's table of limits."""
    row = re.compile(r"^\| `([A-Z_]+)` \| `([\w/.]+)` \| ([^|]+) \|", re.MULTILINE)
    return row.findall(page.read_text())


def number(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)(?: (\w+))?", text.strip())
    assert found, f"{text!r} is not a number with a unit"
    return float(found[1]) * UNITS[found[2] or ""]


def constant(module: str, name: str) -> float:
    dotted = "isochrone." + module.removesuffix(".py").replace("/", ".")
    return float(getattr(importlib.import_module(dotted), name))


@pytest.mark.parametrize(
    ("name", "module", "value"), [*limit_rows(OPERATING), *limit_rows(ARCHITECTURE)]
)
def test_limit(name: str, module: str, value: str) -> None:
    assert number(value) == constant(module, name)


def limits_in(path: Path) -> Iterator[str]:
    """Names of the limits that a module defines."""
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and re.fullmatch(r"[A-Z_]+_(MAX|MIN)", target.id):
                yield target.id


def test_every_limit_is_in_the_manual() -> None:
    written = {(module, name) for name, module, _ in limit_rows(OPERATING)}
    missing = [
        f"| `{name}` | `{module}` | {constant(module, name):g} | why |"
        for pattern in MODULES_IN_THE_MANUAL
        for path in sorted(PACKAGE.glob(pattern))
        for name in limits_in(path)
        if ((module := path.relative_to(PACKAGE).as_posix()), name) not in written
    ]
    assert not missing, "docs/operating.md needs:\n" + "\n".join(missing)


# -- formats


def records(kind: type[Record] = Record) -> Iterator[type[Record]]:
    for below in kind.__subclasses__():
        yield below
        yield from records(below)


def undocumented(page: str, name: str, fields: tuple[str, ...]) -> list[str]:
    """Fields that the row of a table which begins with this name does not tell."""
    rows = re.findall(
        rf"^\| `{name}` \|.*$", (ROOT / "docs/formats" / page).read_text(), re.MULTILINE
    )
    assert len(rows) == 1, f"docs/formats/{page} needs one row for `{name}`"
    return [field for field in fields if f"`{field}`" not in rows[0]]


@pytest.mark.parametrize("record", list(records()), ids=lambda record: record.__name__)
def test_record(record: type[Record]) -> None:
    name = str(record.__struct_config__.tag)
    assert undocumented("log.md", name, record.__struct_fields__) == []


@pytest.mark.parametrize("kind", ITEM_KINDS)
def test_item(kind: str) -> None:
    assert undocumented("metadata.md", kind, ITEM_KINDS[kind].__struct_encode_fields__) == []


def test_files_of_a_pool() -> None:
    """Those that an operator may find in the directory."""
    listed = OPERATING.read_text().partition("| file | |")[2].partition("\n\n")[0]
    names = [METADATA_NAME, BACKUP_NAME, LOCK_NAME, EXPORTS_NAME, AUDIT_NAME, *SOCKETS]
    assert [name for name in names if f"`{name}`" not in listed] == []


# -- links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links(page: Path) -> None:
    """What a page links to within the repository exists, headings included."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name} links to {target}"
        if heading:
            assert heading in headings(there), f"{page.name} links to {target}"


def headings(page: Path) -> set[str]:
    """The anchors of a page, as the usual renderers make them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_can_be_found() -> None:
    """Each page under docs/ is linked from the README, or from a folder that is."""
    readme = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT).as_posix()
        folder = page.parent.relative_to(ROOT).as_posix() + "/"
        assert f"({name})" in readme or f"({folder})" in readme, f"README does not lead to {name}"


# -- proofs


NAMED_TESTS: Final = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / "proofs.md").read_text())


@pytest.mark.parametrize(
    ("module", "name"), NAMED_TESTS, ids=[f"{module}::{name}" for module, name in NAMED_TESTS]
)
def test_named_test(module: str, name: str) -> None:
    """What the manual calls the proof of a promise is a test."""
    tree = ast.parse((ROOT / "tests" / module).read_text())
    assert name in {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
