"""Who shows a report needs neither the store nor the mirror."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import isochrone.control

# Seldom asked for: they show what those that do the work say themselves.
SLOW = {"render_audit", "render_verify", "views_verify"}
HEAVY = {"numpy", "apsw", "isochrone.store.pool", "isochrone.mirror.service"}


def test_a_command_shows_any_answer_without_what_a_controller_needs() -> None:
    """Each import costs every command: those of a controller more than all else that it does."""
    folder = Path(isochrone.control.__file__).parent
    shown = [p.stem for kind in ("render", "views") for p in sorted(folder.glob(f"{kind}*.py"))]
    assert {"render_dr", "render_mirror", "views_dr"} < set(shown)
    names = ["cli", "client", *(name for name in shown if name not in SLOW)]
    program = (
        "import sys\n"
        + "".join(f"import isochrone.control.{name}\n" for name in names)
        + f"print(*sorted({HEAVY!r} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == ""
