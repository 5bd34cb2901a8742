"""A file system at a real primary; at the other site its own check is run on the replica."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.control.process import Start
from tests.e2e.programs import isochrone, run, uri

CHECK = """#!/bin/sh -e
file=$(mktemp -p {folder}); trap 'rm "$file"' EXIT
nbdcopy "$ISOCHRONE_URI" "$file"
e2fsck -f -y "$file" >/dev/null || test $? -eq 1
test "$(debugfs -R 'cat /state' "$file" 2>/dev/null)" = paid
echo "cut $ISOCHRONE_CUT is clean"
"""


def test_a_file_system_checks_itself(start: Start, folder: Path) -> None:
    primary, secondary = start(folder / "a"), start(folder / "b")
    isochrone(primary, "volume", "create", "db", "32MiB")
    isochrone(primary, "group", "create", "shop", "db")
    content, image = folder / "content", folder / "image"
    content.mkdir()
    (content / "state").write_text("paid")
    run("mkfs.ext4", "-q", "-F", "-d", content, image, "32M")
    run("nbdcopy", image, uri(primary, "db"))
    isochrone(secondary, "mirror", "add", "shop", "--source", primary.address("link"))
    isochrone(secondary, "mirror", "wait", "shop", "--timeout", "30")
    check = folder / "check"
    check.write_text(CHECK.format(folder=folder))
    check.chmod(0o755)
    words = ("mirror", "probe", "shop", "--run", str(check))
    done = json.loads(isochrone(secondary, "--output", "json", *words))
    assert (done["result"], done["said"]) == ("good", f"cut {done['cut']} is clean")
    # The check tells a file system from garbage: the next one fails, and the status says so.
    run("qemu-io", "-f", "raw", "-c", "write -P 0x5a 0 8M", uri(primary, "db"))
    isochrone(secondary, "mirror", "wait", "shop", "--timeout", "30")
    site = ("--site", str(secondary.directory))
    failed = run(sys.executable, "-m", "isochrone", *site, *words, ok=False)
    assert "failed" in failed
    assert "THE NEWEST RESTORE PROBE FAILED" in isochrone(secondary, "mirror", "status", "shop")
    assert json.loads(isochrone(secondary, "--output", "json", "copy", "list"))["copies"] == []
