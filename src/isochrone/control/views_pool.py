"""Documents of the API about a pool as a whole: where its space goes, and how far a scrub is."""

from __future__ import annotations

import msgspec


class ShareView(msgspec.Struct, kw_only=True):
    """What can be deleted by itself, and what it uses."""

    kind: str  # volume, copy, incoming, image, point (of a group), reader
    name: str
    provisioned: int
    mapped: int  # shared blocks count in each
    own: int  # what deleting it alone would free


class PinView(msgspec.Struct, kw_only=True):
    kind: str  # mirror, recovery
    what: str
    bytes: int  # dead ones that are kept for it; several pins may hold the same


class FindingView(msgspec.Struct, kw_only=True):
    cause: str
    exports: list[str]  # that read these blocks; none if only the controller does
    offset: int  # in each of them
    bytes: int
    segment: int  # 0: the metadata store


class ScrubView(msgspec.Struct, kw_only=True):
    """How far a scrub is, and what it or the last one has found."""

    state: str  # idle, running, paused, stopped, done
    reason: str  # why it is paused, if nobody asked for that
    rate: int  # bytes a second, at most
    started_time: str
    ended_time: str
    living: int  # bytes to verify in all
    verified: int
    bytes_read: int
    segments: int
    nodes: int  # of the track tables
    dismissed: int  # suspects that were dead, moved, or right when read again
    damaged: int  # ranges
    damaged_bytes: int
    findings: list[FindingView]  # the first thousand
    completed: int  # when a pass last came to its end, ns; 0: never
    completed_time: str
    completed_age: float  # seconds; -1: never
    completed_damaged: int  # ranges that it found


class PoolView(msgspec.Struct, kw_only=True):
    """Where the space goes. Bytes."""

    time: str  # of the count
    provisioned: int  # sizes of the volumes; copies not counted
    mapped: int  # by volumes and copies, shared blocks in each
    living: int  # each block once
    shared: int  # the part of it that several can reach
    own: int  # the part of it that one alone can reach
    used: int  # on disk: log, spares and metadata
    log: int
    spares: int
    spare_segments: int
    metadata: int
    garbage: int  # in the log: dead blocks, and what describes the living ones
    reclaimable: int  # the part of it that nothing holds
    pins: list[PinView]
    free: int  # of the file system
    reserve: int  # the part of it that writes may not take
    written: int  # by clients and mirrors since the start
    moved: int  # by the cleaner since the start
    appended: int  # to the log since the start, descriptions and moves included
    saved: int  # by checkpoints since the start
    amplification: float  # (appended + saved) / written; 0 before anything is written
    shares: list[ShareView]
    scrub: ScrubView
