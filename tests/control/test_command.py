"""Where a command looks for its controller, how it asks, and how it says no."""

from __future__ import annotations

import json

import click
import msgspec
import pytest

from isochrone.control import command
from isochrone.control.command import Site, SiteGroup, confirm, pass_site, run
from isochrone.errors import ConfirmationNeeded, DeadlinePassed, InvalidInput


class Thing(msgspec.Struct):
    name: str


def tool(act: object) -> click.Group:
    @click.group(cls=SiteGroup)
    def root() -> None:
        pass

    @root.command()
    @pass_site
    def go(site: Site) -> None:
        act(site)  # type: ignore[operator]

    return root


def go(monkeypatch: pytest.MonkeyPatch, act: object, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["isochrone", *words])
    return run(tool(act))


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["go"], "from-env"),
        (["--site", "a", "go"], "a"),
        (["go", "--site", "b"], "b"),
        (["--site", "a", "go", "--site", "b"], "b"),
    ],
)
def test_the_site(monkeypatch: pytest.MonkeyPatch, words: list[str], where: str) -> None:
    monkeypatch.setenv("ISOCHRONE_SITE", "from-env")
    seen: list[str] = []
    assert go(monkeypatch, lambda site: seen.append(site.where), *words) == 0
    assert seen == [where]


def test_no_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ISOCHRONE_SITE", raising=False)
    with pytest.raises(InvalidInput) as caught:
        Site().client()
    assert "--site" in caught.value.hint
    assert "ISOCHRONE_SITE" in caught.value.hint


@pytest.mark.parametrize("words", [["-o", "json", "go"], ["go", "--output", "json"]])
def test_json_is_the_whole_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    document = b'{"name":"v","newer":[1,2]}'
    go(monkeypatch, lambda site: site.show(document, Thing, print), *words)
    assert json.loads(capsys.readouterr().out) == {"name": "v", "newer": [1, 2]}


def test_a_table_is_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    go(monkeypatch, lambda site: site.show(b'{"name":"v"}', Thing, print), "go")
    assert capsys.readouterr().out == "Thing(name='v')\n"


def test_what_is_done_is_data_or_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    go(monkeypatch, lambda site: site.done("deleted", "copy", "c"), "go")
    assert capsys.readouterr() == ("", "copy c deleted\n")
    go(monkeypatch, lambda site: site.done("deleted", "copy", "c"), "go", "-o", "json")
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"deleted": {"copy": "c"}}, "")


def test_an_error_is_one_line_and_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def late(_: Site) -> None:
        raise DeadlinePassed("it did not come", hint="look there")

    assert go(monkeypatch, late, "go") == 10
    assert capsys.readouterr() == ("", "isochrone: it did not come\nhint: look there\n")


def test_usage_errors_point_to_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert go(monkeypatch, print, "gone") == 2
    assert capsys.readouterr().err.splitlines()[1].startswith("hint: see: ")
    assert go(monkeypatch, print, "go", "--nix") == 2
    assert "go --help" in capsys.readouterr().err


def test_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Site) -> None:
        raise KeyboardInterrupt

    assert go(monkeypatch, interrupted, "go") == command.INTERRUPTED


class Keyboard:
    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_yes_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Keyboard(False))
    confirm("Sure?", "an act", yes=True)


def test_without_a_terminal_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Keyboard(False))
    with pytest.raises(ConfirmationNeeded, match="an act needs a confirmation") as caught:
        confirm("Sure?", "an act", yes=False)
    assert (caught.value.exit_code, caught.value.hint) == (2, "repeat it with --yes")


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_at_a_terminal_it_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, code: int
) -> None:
    monkeypatch.setattr("sys.stdin", Keyboard(True))
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: answer)
    assert go(monkeypatch, lambda _: confirm("Sure?", "an act", yes=False), "go") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert ("nothing done" in err) is (code == 1)
