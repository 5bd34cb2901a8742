"""Draw the state tables into docs/states: `make docs`. A test compares.

Plain SVG, laid out by hand: states on a circle, an arrow for each move, its events beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from html import escape
from math import atan2, cos, hypot, pi, sin
from pathlib import Path
from typing import Any, Final

from isochrone.mirror import pairs, sessions

FOLDER: Final = Path(__file__).resolve().parents[1] / "docs" / "states"
WIDTH, HEIGHT = 920, 640
BOX_WIDTH, BOX_HEIGHT = 120, 36
BEND: Final = 34  # two arrows between the same states must not lie on each other

Moves = Mapping[Any, Mapping[Any, Any]]  # state -> event -> state


def arrows(moves: Moves) -> dict[tuple[Any, Any], list[str]]:
    """(from, to) -> the events that lead there."""
    found: dict[tuple[Any, Any], list[str]] = {}
    for state, events in moves.items():
        for event, after in events.items():
            found.setdefault((state, after), []).append(str(event.value))
    return found


def draw(title: str, moves: Moves) -> str:
    """A picture of a table, as SVG text."""
    states = list(moves)
    places = {
        state: (
            WIDTH / 2 + 0.38 * WIDTH * cos(2 * pi * n / len(states) - pi / 2),
            HEIGHT / 2 + 12 + 0.38 * HEIGHT * sin(2 * pi * n / len(states) - pi / 2),
        )
        for n, state in enumerate(states)
    }
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="end" markerWidth="9" markerHeight="9" refX="8" refY="4" orient="auto">'
        '<path d="M0,0 L9,4 L0,8 z" fill="#345"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="16" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for (before, after), events in arrows(moves).items():
        lines += arrow(places[before], places[after], ", ".join(events))
    for state, (x, y) in places.items():
        lines.append(
            f'<rect x="{x - BOX_WIDTH / 2:.1f}" y="{y - BOX_HEIGHT / 2:.1f}" width="{BOX_WIDTH}"'
            f' height="{BOX_HEIGHT}" rx="7" fill="#eef4fb" stroke="#345" stroke-width="1.5"/>'
        )
        lines.append(
            f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" font-weight="bold">'
            f"{escape(str(state.value))}</text>"
        )
    return "\n".join([*lines, "</svg>", ""])


def arrow(start: tuple[float, float], end: tuple[float, float], text: str) -> list[str]:
    """A bent line with its text at the bend; a loop where both ends are one."""
    (x1, y1), (x2, y2) = start, end
    if start == end:
        top = y1 - BOX_HEIGHT / 2
        path = f"M{x1 - 18:.1f},{top:.1f} C{x1 - 44:.1f},{top - 40:.1f}"
        path += f" {x1 + 44:.1f},{top - 40:.1f} {x1 + 18:.1f},{top:.1f}"
        middle = (x1, top - 34)
    else:
        long = hypot(x2 - x1, y2 - y1)
        across = ((y1 - y2) / long, (x2 - x1) / long)
        middle = ((x1 + x2) / 2 + across[0] * BEND, (y1 + y2) / 2 + across[1] * BEND)
        bend = (middle[0] + across[0] * BEND, middle[1] + across[1] * BEND)
        (x1, y1), (x2, y2) = edge(start, bend), edge(end, bend)
        path = f"M{x1:.1f},{y1:.1f} Q{bend[0]:.1f},{bend[1]:.1f} {x2:.1f},{y2:.1f}"
    return [
        f'<path d="{path}" fill="none" stroke="#345" marker-end="url(#end)"/>',
        f'<text x="{middle[0]:.1f}" y="{middle[1]:.1f}" text-anchor="middle" stroke="white"'
        f' stroke-width="3" paint-order="stroke">{escape(text)}</text>',
    ]


def edge(place: tuple[float, float], towards: tuple[float, float]) -> tuple[float, float]:
    """Where a line from the middle of a box leaves it."""
    angle = atan2(towards[1] - place[1], towards[0] - place[0])
    reach = min(
        BOX_WIDTH / 2 / max(abs(cos(angle)), 1e-9), BOX_HEIGHT / 2 / max(abs(sin(angle)), 1e-9)
    )
    return place[0] + reach * cos(angle), place[1] + reach * sin(angle)


PICTURES: Final[dict[str, str]] = {
    "pair.svg": draw("Pairs of a group, at its secondary", pairs.MOVES),
    "session.svg": draw("A session, at its primary", sessions.MOVES),
}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, picture in PICTURES.items():
        (FOLDER / name).write_text(picture)
        sys.stdout.write(f"docs/states/{name}\n")


if __name__ == "__main__":
    main()
