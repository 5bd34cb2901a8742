"""Isochrone: block storage whose copies and mirrors all stop at the same instant."""

__version__ = "0.1.0"

if not __debug__:
    # Broken invariants must stop a session, not be skipped: the store relies on its assertions.
    raise SystemExit("isochrone: refuses to run with python -O: its assertions guard your data")
