"""The operator's file about exports: who may open which, over what, and what the empty name means.

`exports.toml` in the controller's directory:

    default = "orders"                  # what a client opens that names no export

    [exports.orders]                    # and its copies, orders@NAME, unless they are listed
    tls = "required"                    # or "optional"
    hosts = ["db1.example.org"]         # from certificates; needs TLS by itself

    [exports."*"]                       # every export that is not listed
    tls = "required"

It is read at start and at each reload. What is not understood is refused, never passed over: a
misspelt rule would be an open export. Without the file there are no rules.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from isochrone.errors import InvalidInput
from isochrone.nbd.tls import HOST_CHARS_MAX, OPEN, Rule

EXPORTS_NAME: Final = "exports.toml"
ALL_OTHERS: Final = "*"
EXAMPLE: Final = 'write it like: [exports.orders] hosts = ["db1.example.org"]'


@dataclass(frozen=True, slots=True)
class ExportRules:
    default: str = ""  # export that the empty name opens; empty: the only volume
    rules: Mapping[str, Rule] = field(default_factory=dict)
    others: Rule = OPEN

    def needing_tls(self) -> list[str]:
        """Exports that cannot be served without TLS, as the file names them."""
        named = [*self.rules.items(), (ALL_OTHERS, self.others)]
        return [name for name, rule in named if rule.needs_tls]


def read(directory: Path) -> ExportRules:
    """The file of a controller. Raises `InvalidInput` for what it cannot mean."""
    path = directory / EXPORTS_NAME
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ExportRules()
    except (OSError, ValueError) as e:
        raise InvalidInput(f"{path} cannot be read: {e}") from e
    try:
        return parse(text)
    except InvalidInput as e:
        raise InvalidInput(f"{path}: {e.message}", hint=e.hint) from e


def parse(text: str) -> ExportRules:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise InvalidInput(f"not TOML: {e}") from e
    _only(document, "default", "exports", where="")
    default = document.get("default", "")
    if not isinstance(default, str):
        raise InvalidInput("default is the name of an export")
    tables = document.get("exports", {})
    if not isinstance(tables, dict):
        raise InvalidInput("exports is no table", hint=EXAMPLE)
    rules = {name: _rule(name, table) for name, table in tables.items()}
    others = rules.pop(ALL_OTHERS, OPEN)
    return ExportRules(default, rules, others)


def _rule(name: str, table: Any) -> Rule:
    where = f"exports.{name}: "
    if not isinstance(table, dict):
        raise InvalidInput(f"{where}not a table", hint=EXAMPLE)
    if not name:
        raise InvalidInput("a rule for no export", hint='for all others write [exports."*"]')
    _only(table, "tls", "hosts", where=where)
    tls = table.get("tls", "optional")
    if tls not in ("required", "optional"):
        raise InvalidInput(f'{where}tls is "required" or "optional", not {tls!r}')
    hosts = table.get("hosts")
    if hosts is None:
        return Rule(tls=tls == "required")
    if not isinstance(hosts, list) or not all(_is_host(host) for host in hosts):
        raise InvalidInput(f"{where}hosts is a list of names, without wildcards", hint=EXAMPLE)
    return Rule(tls=tls == "required", hosts=frozenset(host.lower() for host in hosts))


def _is_host(host: Any) -> bool:
    """Whether a certificate could name this host."""
    return (
        isinstance(host, str)
        and 0 < len(host) <= HOST_CHARS_MAX
        and host.isprintable()
        and "*" not in host
        and host == host.strip()
    )


def _only(table: Mapping[str, Any], *known: str, where: str) -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise InvalidInput(f"{where}{unknown[0]!r} is not known", hint=f"write: {', '.join(known)}")
