"""The operator's file about exports: what it may say, and that nothing else passes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.control.exports import ExportRules, parse, read
from isochrone.errors import InvalidInput
from isochrone.nbd.tls import Rule

WHOLE = """
default = "orders"

[exports.orders]
tls = "required"
hosts = ["DB1.example.org", "db2.example.org"]

[exports.scratch]
tls = "optional"

[exports."orders@public"]
hosts = []

[exports."*"]
tls = "required"
"""


def test_all_of_it() -> None:
    assert parse(WHOLE) == ExportRules(
        default="orders",
        rules={
            "orders": Rule(tls=True, hosts=frozenset({"db1.example.org", "db2.example.org"})),
            "scratch": Rule(),
            "orders@public": Rule(hosts=frozenset()),
        },
        others=Rule(tls=True),
    )
    assert parse(WHOLE).needing_tls() == ["orders", "orders@public", "*"]


def test_nothing_of_it() -> None:
    assert parse("") == ExportRules()
    assert parse("").needing_tls() == []


def test_no_file_means_no_rules(tmp_path: Path) -> None:
    assert read(tmp_path) == read(tmp_path / "not made yet") == ExportRules()


def test_a_file_that_cannot_be_read_is_no_missing_file(tmp_path: Path) -> None:
    (tmp_path / "exports.toml").mkdir()
    with pytest.raises(InvalidInput, match=r"exports\.toml cannot be read"):
        read(tmp_path)
    (tmp_path / "exports.toml").rmdir()
    (tmp_path / "exports.toml").write_bytes(b'default = "\xff"')
    with pytest.raises(InvalidInput, match=r"exports\.toml cannot be read"):
        read(tmp_path)


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "exports.toml").write_text("defualt = 'orders'")
    with pytest.raises(InvalidInput, match=r"exports\.toml: 'defualt' is not known") as caught:
        read(tmp_path)
    assert caught.value.hint == "write: default, exports"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("default = ", "not TOML"),
        ("default = 7", "default is the name"),
        ("exports = 7", "no table"),
        ("exports.orders = 7", r"exports\.orders: not a table"),
        ('[exports.orders]\nhost = ["a"]', "'host' is not known"),
        ('[exports.orders]\ntls = "yes"', '"required" or "optional", not \'yes\''),
        ("[exports.orders]\ntls = true", "not True"),
        ('[exports.orders]\nhosts = "db1"', "a list of names"),
        ("[exports.orders]\nhosts = [7]", "a list of names"),
        ('[exports.orders]\nhosts = [""]', "a list of names"),
        ('[exports.orders]\nhosts = [" db1"]', "a list of names"),
        ('[exports.orders]\nhosts = ["*.example.org"]', "a list of names, without wildcards"),
        (f'[exports.orders]\nhosts = ["{"x" * 256}"]', "a list of names"),
        ('[exports.""]\ntls = "required"', "a rule for no export"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse(text)


NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='"\\*'))


@given(
    st.dictionaries(
        NAMES.filter(bool),
        st.tuples(st.booleans(), st.none() | st.lists(NAMES.filter(bool), max_size=3)),
        max_size=4,
    )
)
def test_every_rule_that_is_written_is_in_force(rules) -> None:
    """A model: what was meant is what is read, whatever the names are."""
    lines = []
    for name, (tls, hosts) in rules.items():
        lines.append(f'[exports."{name}"]')
        lines.append(f'tls = "{"required" if tls else "optional"}"')
        if hosts is not None:
            lines.append("hosts = [" + ", ".join(f'"{host}"' for host in hosts) + "]")
    read_back = parse("\n".join(lines)).rules
    assert set(read_back) == set(rules)
    for name, (tls, hosts) in rules.items():
        assert read_back[name].tls is tls
        meant = None if hosts is None else {host.lower() for host in hosts}
        assert read_back[name].hosts == meant


@given(st.text(max_size=200))
def test_any_text_is_taken_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        parse(text)
