"""The model of what was asked: states by number, and forgetting what was allowed to be lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.sim.history import ZERO, History
from isochrone.types import BLOCK


def content(text: str) -> bytes:
    return text.encode().ljust(BLOCK, b".")


A, B, C = content("a"), content("b"), content("c")


def block(history: History, name: str, at: int, op: int) -> bytes:
    track = history.alive(name, op)
    assert track is not None
    return history.content(track, at, op)


def test_each_change_is_one_state() -> None:
    history = History()
    history.create("v", 10, now=5)
    history.write("v", 3, A, now=6)
    history.write("v", 3, B, now=7)
    history.discard("v", 2, 2, now=8)
    assert history.op == 4
    assert history.times == [0, 5, 6, 7, 8]
    assert [block(history, "v", 3, op) for op in range(1, 5)] == [ZERO, A, B, ZERO]
    assert history.alive("v", 0) is None
    track = history.alive("v", 4)
    assert track is not None
    assert history.ops_with(track, 3, B, 4) == 1 << 3
    assert history.ops_with(track, 3, ZERO, 4) == 1 << 1 | 1 << 4
    assert history.ops_with(track, 9, ZERO, 4) == 0b11110
    assert history.ops_with(track, 3, C, 4) == 0


def test_a_copy_is_its_source_at_one_instant() -> None:
    history = History()
    history.create("v", 10, 1)
    history.write("v", 3, A, 2)
    history.copy("c1", ("v",), 3)
    history.write("v", 3, B, 4)
    history.write("v@c1", 4, C, 5)
    assert block(history, "v@c1", 3, 5) == A
    assert block(history, "v@c1", 4, 5) == C
    assert block(history, "v@c1", 4, 4) == ZERO
    assert block(history, "v", 4, 5) == ZERO
    track = history.alive("v@c1", 5)
    assert track is not None
    assert history.touched(track) == {3, 4}
    assert set(history.copies_at(3)) == {"c1"}
    assert history.copies_at(2) == {}
    history.delete_copy("c1", 6)
    assert history.alive("v@c1", 6) is None
    assert history.alive("v@c1", 5) is not None
    history.copy("c1", ("v",), 7)
    assert block(history, "v@c1", 3, 7) == B
    assert block(history, "v@c1", 3, 5) == A


def test_sizes() -> None:
    history = History()
    history.create("v", 10, 1)
    history.write("v", 9, A, 2)
    history.resize("v", 5, 3)
    history.resize("v", 20, 4)
    assert [history.size("v", op) for op in (1, 2, 3, 4)] == [10, 10, 5, 20]
    assert block(history, "v", 9, 2) == A
    assert block(history, "v", 9, 4) == ZERO, "what was cut off came back"


def test_a_copy_from_another_history() -> None:
    history = History()
    history.create("v", 1, 1)
    history.create("v@c1", 1, 2)
    history.adopt_copy("c1", ["v"])
    history.delete_copy("c1", 3)
    assert history.alive("v@c1", 3) is None


changes = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "discard", "resize", "copy", "delete"]),
        st.integers(0, 9),
        st.integers(1, 5),
    ),
    max_size=30,
)


def play(history: History, steps: list[tuple[str, int, int]]) -> None:
    for kind, at, n in steps:
        now = history.op + 1
        match kind:
            case "write":
                history.write("v", at, content(f"{now}"), now)
            case "discard":
                history.discard("v", at, n, now)
            case "resize":
                history.resize("v", n + 5, now)
            case "copy" if not history.copies_at(history.op):
                history.copy("c", ("v",), now)
            case "delete" if history.copies_at(history.op):
                history.delete_copy("c", now)


def seen(history: History) -> dict[str, object]:
    op = history.op
    found: dict[str, object] = {}
    for name in history.tracks:
        if history.alive(name, op) is not None:
            found[name] = [
                history.size(name, op),
                *(block(history, name, b, op) for b in range(10)),
            ]
    return found


@settings(max_examples=60, deadline=None)
@given(changes, changes)
def test_cutting_off_is_as_if_it_had_never_been(before, after) -> None:
    one, other = History(), History()
    for history in (one, other):
        history.create("v", 10, 1)
        play(history, before)
    op = one.op
    play(one, after)
    one.cut_off(op)
    assert one.op == one.flushed == op
    assert seen(one) == seen(other)
    assert one.copies_at(op).keys() == other.copies_at(op).keys()
    assert one.times == other.times
    play(one, after)
    play(other, after)
    assert seen(one) == seen(other)


def test_relations_change_volumes_as_of_one_instant() -> None:
    history = History()
    for name, text in (("v", A), ("w", B)):
        history.create(name, 40, 1)
        history.write(name, 0, text, 2)
    history.establish([("v", "w", [(0, 16, 16)]), ("w", "v", [(0, 16, 16)])], [7, 8], 3)
    assert (block(history, "w", 16, 5), block(history, "v", 16, 5)) == (A, B)
    assert block(history, "w", 16, 4) == ZERO
    history.write("v", 1, C, 4)
    history.renew([7], 5, reverse=False)
    assert block(history, "w", 17, 7) == C
    history.write("w", 16, C, 6)
    history.renew([7], 7, reverse=True)
    assert block(history, "v", 0, 9) == C
    assert history.bonds.at(9)[7].since == 9


def test_a_discard_leaves_what_hosts_wrote_since() -> None:
    history = History()
    history.create("v", 64, 1)
    history.create("w", 64, 1)
    for at in (0, 16, 32, 48):
        history.write("v", at, A, 2)
    history.establish([("v", "w", [(0, 0, 64)])], [7], 3)
    history.write("w", 1, B, 4)
    history.write("w", 17, B, 5)
    history.discard("w", 17, 1, 6)
    history.withdraw(7, 0, 48, 7, discard=True)
    assert [block(history, "w", at, history.op) for at in (0, 1, 16, 32, 48)] == [
        A,
        B,
        ZERO,
        ZERO,
        A,
    ]
    assert history.bonds.at(history.op)[7].extents == ((48, 48, 16),)
    history.withdraw(7, 0, 64, 8, discard=False)
    assert block(history, "w", 48, history.op) == A
    assert history.bonds.at(history.op) == {}


def test_a_revert_is_an_undo_copy_and_the_old_state() -> None:
    history = History()
    history.create("v", 10, 1)
    history.write("v", 3, A, 2)
    history.copy("c", ("v",), 3)
    history.write("v", 3, B, 4)
    history.resize("v", 20, 5)
    history.write("v", 15, C, 6)
    history.revert("c", ["v"], "u", 7)
    assert [block(history, "v", at, history.op) for at in (3, 15)] == [A, ZERO]
    assert [block(history, "v@u", at, history.op) for at in (3, 15)] == [B, C]
    assert (history.size("v", history.op), history.size("v@u", history.op)) == (10, 20)
    history.cut_off(history.op - 1)
    assert block(history, "v", 15, history.op) == C
    assert history.alive("v@u", history.op) is None


def test_a_write_that_was_lost_was_never_written() -> None:
    history = History()
    history.create("v", 16, 1)
    history.create("w", 16, 1)
    history.write("v", 0, A, 2)
    history.establish([("v", "w", [(0, 0, 16)])], [7], 3)
    kept = history.op
    history.write("w", 0, B, 4)
    history.cut_off(kept)
    history.withdraw(7, 0, 16, 5, discard=True)
    assert block(history, "w", 0, history.op) == ZERO
