"""An event loop in virtual time: one thread, no sockets, the same steps on every run.

When nothing is ready, time jumps to the next timer; a program that waits for ten minutes takes no
time at all. What runs next depends on nothing but the order of calls:

- callbacks run in the order in which they became ready; timers of the same instant in the order in
  which they were set (asyncio's own heap leaves ties to chance);
- a task's hash is its number and not its address, so the sets of tasks inside asyncio (a
  `TaskGroup` that aborts, `asyncio.wait`) are walked in the same order on every run. Sets of plain
  futures, and sets of strings without a fixed PYTHONHASHSEED, are not: the code must not walk them;
- every task is held by the loop, so the garbage collector never ends one at a time of its own.

Code belongs to a `Life`, one run of one site's program from its start to its crash. The life
travels in the context, so whatever a task of a life starts or schedules belongs to it too. The loop
runs nothing of a dead life any more, not even its `finally` blocks: this is `kill -9`.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import inspect
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Entry = tuple[asyncio.Handle, "Life | None"]

SECONDS_MAX: Final = 24 * 3600.0  # of virtual time in one run
STEPS_MAX: Final = 20_000_000  # of one run; some minutes of real time: more is an endless loop
CLOSING_SECONDS: Final = 600.0  # virtual time that left-over tasks have for their last acts
CLOSING_STEPS: Final = 100_000
CLOSING_ROUNDS: Final = 3  # a task may start others while it is cancelled
SETTLING_TURNS: Final = 100  # until exceptions that somebody waits for have been taken
TIMERS_CANCELLED_MIN: Final = 64  # below it, sweeping the heap costs more than it saves


class SimFailure(Exception):
    """The simulation itself cannot go on, or found what nobody else would report."""


class Deadlock(SimFailure):
    """Everybody waits, and no timer is set."""


class LimitReached(SimFailure):
    """More virtual time or more steps than the run was given."""


class Complaint(SimFailure):
    """An exception that nobody looked at; its cause is the exception."""


class Crashed(BaseException):
    """The site was crashed while this waited for it.

    Not an `Exception`: code that handles errors has no say in the end of its own process.
    """


class Life:
    """One run of one site's program, from its start to its crash."""

    __slots__ = ("alive", "backlog", "context", "name", "paused", "running")

    def __init__(self, name: str, outside: Context | None = None) -> None:
        self.name = name
        self.alive = True
        self.paused = False  # SIGSTOP: its callbacks wait in the backlog
        self.running = True  # alive and not paused; the loop looks at this alone
        self.backlog: list[asyncio.Handle] = []
        self.context = (copy_context() if outside is None else outside).copy()
        self.context.run(LIFE.set, self)

    def end(self) -> None:
        self.alive = self.running = False
        self.backlog.clear()


LIFE: ContextVar[Life | None] = ContextVar("LIFE", default=None)


class SimTask(asyncio.Task[T]):
    """A task that knows its number and its life."""

    def __init__(
        self,
        coro: Coroutine[Any, Any, T],
        loop: VirtualLoop,
        name: str | None,
        context: Context,
        serial: int,
    ) -> None:
        self.serial = serial
        self.life = context.get(LIFE)
        super().__init__(coro, loop=loop, name=name or f"task-{serial}", context=context)

    def __hash__(self) -> int:
        return self.serial


class VirtualLoop(asyncio.BaseEventLoop):
    """See the top of this file. Use `run`, which also bounds and closes it."""

    def __init__(self) -> None:
        self._driving = False
        super().__init__()
        self.steps = 0  # callbacks run so far; with `time()` a cheap fingerprint of a run
        self.complaints: list[BaseException] = []
        self._now = 0.0
        self._queue: deque[Entry] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Life | None]] = []
        self._timers_set = 0
        self._timers_cancelled = 0
        self._tasks: list[SimTask[Any]] = []
        self._tasks_made = 0
        self._tasks_sweep = 64

    # -- what asyncio calls

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False  # asked for every handle; debug mode measures real time

    def is_running(self) -> bool:
        return self._driving

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        context = copy_context() if context is None else context
        handle = asyncio.Handle(callback, args, self, context)
        self._queue.append((handle, context.get(LIFE)))
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        context = copy_context() if context is None else context
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_set += 1
        heapq.heappush(self._timers, (when, self._timers_set, handle, context.get(LIFE)))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._timers_cancelled += 1
        limit = max(TIMERS_CANCELLED_MIN, len(self._timers) // 2)
        if self._timers_cancelled > limit:
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._timers_cancelled = 0

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
        **_: object,
    ) -> SimTask[T]:
        assert asyncio.iscoroutine(coro)
        label = None if name is None else str(name)
        self._tasks_made += 1
        task = SimTask(
            coro, self, label, copy_context() if context is None else context, self._tasks_made
        )
        self._tasks.append(task)
        if len(self._tasks) > self._tasks_sweep:
            # A failed task stays until somebody has taken its exception.
            self._tasks = [t for t in self._tasks if not t.done() or t._log_traceback]
            self._tasks_sweep = 64 + 2 * len(self._tasks)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if self.is_closed() or isinstance(error, Crashed):
            return
        self.complaints.append(error or SimFailure(str(context.get("message"))))

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("no threads in virtual time: use world.work")

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> NoReturn:
        raise RuntimeError("no threads in virtual time")

    def run_forever(self) -> NoReturn:
        raise RuntimeError("virtual time needs an end: use run_until_complete")

    # -- running

    def run_until_complete(self, future: Any) -> Any:
        return self.drive(future, SECONDS_MAX, STEPS_MAX)

    def drive(
        self, main: Coroutine[Any, Any, T] | asyncio.Future[T], seconds: float, steps: int
    ) -> T:
        """Run until `main` is done. Raises `Deadlock` or `LimitReached` if it never will be."""
        task = main if isinstance(main, asyncio.Future) else self.create_task(main, name="main")
        with self._running():
            until, last_step = self._now + seconds, self.steps + steps
            while not task.done():
                if not self._turn():
                    raise Deadlock(f"nothing can happen after {self._now:.6f} s; {self._who()}")
                if self._now > until or self.steps > last_step:
                    raise LimitReached(
                        f"{self.steps} steps, {self._now:.3f} s of virtual time; {self._who()}"
                    )
        return task.result()

    def finish(self, *, complain: bool) -> None:
        """End what is left over, close, and raise the first thing that nobody looked at."""
        with self._running():
            for _ in range(SETTLING_TURNS):
                if not self._queue:
                    break
                self._turn(jump=False)
            self._collect(everything=True)
            for _ in range(CLOSING_ROUNDS):
                if not (living := [t for t in self._unfinished() if self._lives(t)]):
                    break
                for task in living:
                    task.cancel()
                self._turns_until_done(living)
            self._collect(everything=False)
        for task in reversed(self._unfinished()):
            task._log_destroy_pending = False
            _discard(task.get_coro())
        complaints = self.complaints
        self._tasks.clear()
        self._queue.clear()
        self._timers.clear()
        self.close()
        if complain and complaints:
            first = complaints[0]
            raise Complaint(f"nobody looked at {first!r} ({len(complaints)} in all)") from first

    def release(self, life: Life) -> None:
        """Let a paused life go on: what came due meanwhile runs now."""
        life.paused, life.running = False, life.alive
        self._queue.extend((handle, life) for handle in life.backlog)
        life.backlog.clear()

    def _turn(self, *, jump: bool = True) -> bool:
        """One turn as asyncio has it: timers due become ready, then what is ready now runs.

        False when there is nothing left to do.
        """
        timers, queue = self._timers, self._queue
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not queue:
            if not timers:
                return False
            if jump:
                self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            _, _, timer, owner = heapq.heappop(timers)
            queue.append((timer, owner))
        for _ in range(len(queue)):
            handle, life = queue.popleft()
            if handle.cancelled():
                continue
            if life is not None and not life.running:
                if life.alive:
                    life.backlog.append(handle)
                continue
            self.steps += 1
            handle._run()
        return True

    def _turns_until_done(self, tasks: list[SimTask[Any]]) -> None:
        until, last_step = self._now + CLOSING_SECONDS, self.steps + CLOSING_STEPS
        while not all(task.done() for task in tasks) and self._turn():
            if self._now > until or self.steps > last_step:
                return

    @contextlib.contextmanager
    def _running(self) -> Generator[None]:
        if self.is_closed():
            raise RuntimeError("this run is over")
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("virtual time cannot run inside another loop")
        hooks = sys.get_asyncgen_hooks()
        self._driving = True
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._end_generator)
        try:
            yield
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(None)
            self._driving = False

    def _end_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        if self._driving:
            self.create_task(generator.aclose())

    # -- tasks

    def _unfinished(self) -> list[SimTask[Any]]:
        return [task for task in self._tasks if not task.done()]

    def _lives(self, task: SimTask[Any]) -> bool:
        return task.life is None or task.life.running

    def _collect(self, *, everything: bool) -> None:
        """Take the exceptions that nobody took from finished tasks.

        A crash comes between a failure and the one who was about to take it, and so does the end of
        a run; then only a broken invariant counts.
        """
        for task in self._tasks:
            if not (task.done() and task._log_traceback):
                continue
            error = task.exception()
            if error is None or isinstance(error, Crashed):
                continue
            alive = task.life is None or task.life.alive
            if (everything and alive) or isinstance(error, AssertionError):
                self.complaints.append(error)

    def _who(self) -> str:
        waiting = [t for t in self._unfinished() if t.life is None or t.life.alive]
        return f"{len(waiting)} tasks wait: " + "; ".join(map(_where, waiting[:20]))


def _where(task: asyncio.Task[Any]) -> str:
    """A task's name and the innermost line it waits at."""
    waiter: Any = task.get_coro()
    place = "?"
    while waiter is not None:
        frame = getattr(waiter, "cr_frame", None) or getattr(waiter, "gi_frame", None)
        if frame is not None:
            place = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
        waiter = getattr(waiter, "cr_await", None) or getattr(waiter, "gi_yieldfrom", None)
    return f"{task.get_name()} in {place}"


def _discard(coroutine: Any) -> None:
    """Close a coroutine for good, whatever it says to that.

    One that waits again while it is closed, as a `TaskGroup` does, must be told once more.
    """
    for _ in range(10):
        with contextlib.suppress(BaseException):
            coroutine.close()
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED:
            return


def run(
    main: Coroutine[Any, Any, T],
    *,
    seconds_max: float = SECONDS_MAX,
    steps_max: int = STEPS_MAX,
) -> T:
    """The result of `main`, run in a virtual time of its own; whatever it leaves behind is ended.

    Raises `Deadlock`, `LimitReached`, or `Complaint` if a task failed and nobody looked.
    """
    loop = VirtualLoop()
    succeeded = False
    try:
        result = loop.drive(main, seconds_max, steps_max)
        succeeded = True
    finally:
        loop.finish(complain=succeeded)
    return result
