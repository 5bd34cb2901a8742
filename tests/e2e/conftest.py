"""Controllers for tests with real programs; every test here is marked `e2e`."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.control.process import Controller, Start, controllers
from tests.e2e.programs import isochrone

NewVolume = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, as sockets need."""
    path = Path(tempfile.mkdtemp(prefix="iso-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def start() -> Iterator[Start]:
    with controllers() as begin:
        yield begin


@pytest.fixture(scope="module")
def controller() -> Iterator[Controller]:
    """One controller for all tests of a file that only need volumes."""
    path = Path(tempfile.mkdtemp(prefix="iso-"))
    with controllers() as begin:
        one = begin(path / "pool")
        assert one.ready, one.wait()
        yield one
        code, _, err = one.end()
        assert (code, "Traceback" in err) == (0, False), err
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def volume(controller: Controller, request: pytest.FixtureRequest) -> Iterator[NewVolume]:
    """Makes volumes of the file's controller, which end with the test."""
    made: list[str] = []
    numbers = itertools.count(1)

    def make(size: str = "64MiB") -> str:
        name = f"v{abs(hash(request.node.name)) % 10**8}-{next(numbers)}"
        isochrone(controller, "volume", "create", name, size)
        made.append(name)
        return name

    yield make
    for name in made:
        isochrone(controller, "volume", "delete", name, "--yes")
