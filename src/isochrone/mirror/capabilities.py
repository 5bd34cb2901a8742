"""What this version understands beyond the first one, and what a group needs of the other side.

HELLO and WELCOME carry the names. What the other side does not name must not be sent to it; names
that are not known here are ignored. Whoever adds messages or kinds of commands adds a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from isochrone.errors import Conflict, PeerFault
from isochrone.store.catalogue import Group
from isochrone.store.state import State

CAPABILITIES_MAX: Final = 64  # in a message; each stands for a release that added something

ASKING: Final = "asking"
REQUESTS: Final = "requests"


@dataclass(frozen=True, slots=True)
class Capability:
    meaning: str
    messages: frozenset[int] = frozenset()  # types that may be sent only to who has it
    needed: Callable[[State, Group], bool] | None = None  # by a group, at its secondary


def related(state: State, group: Group) -> bool:
    """Whether relations are mirrored with a group."""
    return any(
        state.relations[id].group == group.name
        for volume in group.volumes
        for id in state.related.get(volume, ())
    )


CAPABILITIES: Final[dict[str, Capability]] = {
    ASKING: Capability(
        "commands are asked about before, and copies confirmed", messages=frozenset({25, 27, 28})
    ),
    REQUESTS: Capability(
        "secondaries know of copies at several sites, and settle them when they take over",
        frozenset({45, 46}),
    ),
    "images": Capability(
        "groups that are sent from images go on after a broken connection, and are compared first",
        frozenset({16, 17}),
    ),
    "members": Capability(
        "volumes join and leave a group while it is mirrored",
        needed=lambda state, group: group.members_lsn > 0,
    ),
    "relations": Capability(
        "relations inside a group are at both sites, and inventories settle what was lost",
        frozenset({20, 21}),
        needed=related,
    ),
    "verify": Capability(
        "sites are compared while they run, and heal damage from each other",
        frozenset({35, 36, 37, 38}),
    ),
    "roles": Capability(
        "a site that comes back tells what it has otherwise, and secondaries can be followed",
        frozenset({32, 33}),
    ),
    "site-names": Capability("HELLO says which site it is, and TLS proves it"),
}
OURS: Final = tuple(sorted(CAPABILITIES))
assert len(OURS) <= CAPABILITIES_MAX

_NEEDED_BY: Final[dict[int, str]] = {
    kind: name for name, row in CAPABILITIES.items() for kind in row.messages
}


def check_secondary(
    theirs: Iterable[str],
    state: State,
    group: Group,
    table: dict[str, Capability] = CAPABILITIES,
) -> None:
    """Raise `Conflict` if a secondary cannot take what a group has."""
    has = frozenset(theirs)
    lacking = [
        name
        for name, row in sorted(table.items())
        if name not in has and row.needed is not None and row.needed(state, group)
    ]
    if lacking:
        raise Conflict(
            f"group {group.name} needs {', '.join(lacking)}, which the secondary does not know",
            hint="upgrade the secondary first: a newer one understands an older primary",
        )


def check_message(kind: int, theirs: frozenset[str], peer: str) -> None:
    """Raise `PeerFault` for a message that the other side would not understand."""
    name = _NEEDED_BY.get(kind)
    if name is not None and name not in theirs:
        raise PeerFault(
            f"{peer} does not know {name}: its version is older than this one",
            hint="run the same version of isochrone at both sites",
        )
