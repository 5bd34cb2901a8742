"""Programs that hold an application or a file system still while a copy is taken.

They run where the command line runs, which is where the application is. A hook is one process for
the whole time, so that nothing has to be found again to undo it:

    start      it makes its thing quiet, then prints a line `ready`
    meanwhile  it holds still
    end        its standard input closes: it lets go, and exits 0 if it held still all the time

Whatever ends the command line, also `kill -9`, closes that input: nobody stays frozen because
somebody else died. All hooks share one deadline, from the start of the first to the last
letting go; a hook that is not done by then is told to let go, then ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, get_args

from isochrone.errors import DeadlinePassed, HookFailed, InvalidInput
from isochrone.store.catalogue import Consistency
from isochrone.world.clock import Clock, SystemClock
from isochrone.world.programs import Program

CLASSES: Final[tuple[Consistency, ...]] = get_args(Consistency)

DEADLINE_S: Final = 10.0  # applications notice a pause of this length, few give up over it
DEADLINE_S_MAX: Final = 300.0
LET_GO_S_MAX: Final = 5.0  # for a hook to let go after the deadline, before it is ended
READY: Final = b"ready\n"
SAID_BYTES_MAX: Final = 4096  # what a hook may say before `ready`
DEADLINE_VARIABLE: Final = "ISOCHRONE_HOOK_SECONDS"  # what is left when a hook starts


@dataclass(frozen=True, slots=True)
class Hook:
    """A command, and what a copy is if it held still."""

    command: tuple[str, ...]
    gives: Consistency

    @property
    def name(self) -> str:
        return " ".join(self.command)


@dataclass(slots=True)
class Quiet:
    """Hooks that run for one copy. `freeze`, take the copy, `thaw`; and `thaw` in any case."""

    hooks: Sequence[Hook]
    seconds: float = DEADLINE_S
    clock: Clock = field(default_factory=SystemClock)
    running: list[tuple[Hook, Program]] = field(default_factory=list)
    _end: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= DEADLINE_S_MAX:
            raise InvalidInput(
                f"a deadline of {self.seconds:g} s is not possible",
                hint=f"more than 0, at most {DEADLINE_S_MAX:g}",
            )

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return max(self._end - self.clock.monotonic(), 0.0)

    @property
    def gives(self) -> Consistency:
        """What a copy is if all of them hold still."""
        return max((hook.gives for hook in self.hooks), key=CLASSES.index, default="crash")

    def freeze(self) -> None:
        """Start the hooks in order; each must be ready before the next starts.

        Raises `HookFailed` or `DeadlinePassed`; then all of them have been let go again.
        """
        self._end = self.clock.monotonic() + self.seconds
        try:
            for hook in self.hooks:
                self._start(hook)
        except BaseException:
            self.thaw()
            raise

    def _start(self, hook: Hook) -> None:
        try:
            program = Program(hook.command, {DEADLINE_VARIABLE: f"{self.left:.3f}"})
        except OSError as e:
            raise HookFailed(f"the hook `{hook.name}` cannot be run: {e.strerror or e}") from e
        self.running.append((hook, program))
        said = b""
        while READY not in said.splitlines(keepends=True):
            piece = program.read(self.left)
            if piece is None:
                raise DeadlinePassed(
                    f"the hook `{hook.name}` was not ready within {self.seconds:g} s;"
                    " no copy was taken",
                    hint="everything has been let go again; see why it is slow, or --deadline",
                )
            said += piece
            if not piece or len(said) > SAID_BYTES_MAX:
                raise HookFailed(
                    f"the hook `{hook.name}` ended or spoke too much before it was ready;"
                    " no copy was taken"
                )

    def thaw(self) -> list[str]:
        """Let all go, the last first. What went wrong; empty if all held still until now.

        Does not raise and may be called again: letting go must always go on to the next hook.
        """
        in_time = self.left > 0
        wrong = []
        while self.running:
            hook, program = self.running.pop()
            if problem := self._let_go(program):
                wrong.append(f"the hook `{hook.name}` {problem}")
        if self.hooks and not in_time:
            wrong.append(f"the deadline of {self.seconds:g} s had passed")
        return wrong

    def _let_go(self, program: Program) -> str:
        early = program.ended
        program.close_input()
        code = program.wait(self.left + LET_GO_S_MAX)
        if code is None:
            return f"did not let go and was ended (exit code {program.end(LET_GO_S_MAX)})"
        if code:
            return f"did not hold still (exit code {code})"
        return "ended before it was told to" if early else ""
