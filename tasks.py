"""Counters, their states and the board that runs them. Needs anyio and loop_runner, not Streamlit.

Copy this file together with `loop_runner.py`. A job is an async function that takes a `Counter`; the board runs it
once for each counter, as a task of its own on the runner's loop:

    board = Board(LoopRunner())
    ids = board.start(count, name="apples", n=3, target=10)
    board.page().rows  # what the counters are doing now, as plain values
    board.stop(ids)    # at once; each is `stopping` until its coroutine has really ended

Who writes what: a counter's value and log, only its job; its state, only the board, under one lock; all that a page
reads is copied into frozen rows. Nothing here waits for the loop, so a page never does.
"""

import asyncio
import contextvars
import functools
import gc
import inspect
import itertools
import logging
import math
import operator
import os
import reprlib
import sys
import threading
import time
import traceback
import unicodedata
import weakref
from array import array
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import partial
from types import FrameType
from typing import Any, Literal, TextIO, TypeVar, cast, get_args, get_origin, get_type_hints

import anyio
from anyio import to_process, to_thread

from loop_runner import LoopRunner, place

T = TypeVar("T")

MIN_INTERVAL_S, MAX_INTERVAL_S = 0.05, 86_400.0
MAX_NAME = 80
HISTORY = 30  # values kept of each counter, one a second
LOG_LINES, LOG_WIDTH = 100, 500  # kept of each counter's log; a traceback is cut at LOG_LINES * LOG_WIDTH / 2
GRID_S = 0.005  # counters start on this grid, so that many share a timer
BIGGEST = 2**53  # a value that is not smaller cannot be drawn
PIECE = 1_000  # counters handled before the loop gets to breathe
MANY = 10_000  # counters started at once are worth a word with the garbage collector

_LOADED_AT = time.time()  # Streamlit loads this file, and those of all jobs, again after an edit of any of them
_log = logging.getLogger(__name__)


class State(StrEnum):
    """What a counter is doing; `queued` waits for its turn, the last three have ended."""

    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    STUCK = "stuck"
    STOPPED = "stopped"
    DONE = "done"
    FAILED = "failed"


ACTIVE = (State.QUEUED, State.RUNNING, State.STOPPING, State.STUCK)
ENDED = (State.STOPPED, State.DONE, State.FAILED)


# What a page reads: plain frozen values


@dataclass(frozen=True, slots=True)
class Row:
    """One counter as it was at one moment. Times are seconds since the epoch."""

    id: int
    name: str
    job: str
    state: State
    value: int
    target: int | None
    interval_s: float
    lateness_s: float  # of its last beat, while it runs
    private: bool
    history: tuple[float, ...]  # its values, one a second, oldest first
    started_at: float
    ended_at: float | None
    error: str | None  # of a failed one, in one line
    where: str | None  # of a stuck one: the line where its coroutine stands
    outdated: bool  # it runs code from before an edit of its file


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, how many matched in all, and how many counters the visitor may see in each state."""

    rows: tuple[Row, ...]
    matched: int
    states: Mapping[State, int]
    kept: dict[str, Any] = field(default_factory=dict, compare=False)  # by readers, for those who share this page


@dataclass(frozen=True, slots=True)
class Totals:
    """The whole board, everyone's and all private counters. Ticks lag behind by up to a second."""

    states: Mapping[State, int]
    ticks: int  # additions made since the board was made
    ticks_per_s: float
    lateness_p50_s: float  # of the beats of the last seconds
    lateness_p99_s: float
    running_history: tuple[float, ...]  # one a second, oldest first
    ticks_history: tuple[float, ...]
    ended_history: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Detail:
    """One row, what its job was called with, its log as (seconds since the epoch, text), and how it ended."""

    row: Row
    options: Mapping[str, object]
    log: tuple[tuple[float, str], ...]
    result: str | None  # what the job returned, as `repr` shows it
    traceback: str | None  # of a failed one


# Beats


class Beat:
    """The reusable awaitable of one counter: gives how many beats came due since the last one it gave.

    It does what a future does for the task that awaits it (the task hands it a wake-up call, and it makes that call),
    but it is made once, not once a beat, and the metronome wakes the task directly, not through the loop's queue. Those
    two make a beat several times cheaper than `asyncio.sleep`. The protocol is that of `asyncio.isfuture`.
    """

    __slots__ = ("_asyncio_future_blocking", "bucket", "context", "paced", "seen", "task", "wake_up")

    context: contextvars.Context  # the task's own
    task: "asyncio.Task[Any]"  # that of `paced`
    result = bool  # a task asks for the result of what it awaited, and drops it

    def __init__(self, bucket: "Bucket", seen: int) -> None:
        self.bucket = bucket
        self.seen = seen  # the number of the last beat that it gave
        self.wake_up: Callable[[Beat], object] | None = None
        self.paced: Paced[Any] | None = None  # what awaits it, if it can be resumed without its task
        self._asyncio_future_blocking: bool | None = None

    def __await__(self) -> Generator["Beat", None, int]:
        if self.wake_up is not None:
            raise RuntimeError("another task awaits this counter's beat already: await it in one task only")
        self._asyncio_future_blocking = True
        yield self
        seen, self.seen = self.seen, self.bucket.number
        return self.seen - seen

    def add_done_callback(self, wake_up: Callable[["Beat"], object], *, context: contextvars.Context) -> None:
        """Keep the wake-up call of the task that waits."""
        self.wake_up, self.context = wake_up, context
        self._asyncio_future_blocking = None  # a future for its task only: `wait_for` must not take it for one

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Tell the task which loop this belongs to: at each beat, so without `get_running_loop`, a system call."""
        return self.bucket.loop

    def cancel(self, msg: object = None) -> bool:
        """Have the task wake up soon, to be told that it is cancelled."""
        wake_up, self.wake_up, self.paced = self.wake_up, None, None
        if wake_up is not None:
            asyncio.get_running_loop().call_soon(wake_up, self, context=self.context)
        return False  # so the task raises CancelledError itself, when it wakes up


class Paced(Coroutine[Any, Any, T]):
    """A job's coroutine as its task sees it: of several beats in a row the task is woken for the first one only.

    At the others the metronome resumes the coroutine in the task's name, as asyncio lets those do who run tasks
    (https://docs.python.org/3/library/asyncio-extending.html), for two thirds of the cost. When the coroutine then does
    anything else than await its next beat, that is kept, and the task woken: it finds what was kept, and goes on.
    """

    __slots__ = ("coro", "kept")

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        self.coro = coro
        self.kept: tuple[Any, BaseException | None] | None = None  # awaited, or raised (returned: StopIteration)

    def send(self, value: Any) -> Any:
        """Go on, from what was kept if there is anything; called by the task."""
        if self.kept is None:
            return self._watched(self.coro.send(value))
        (awaited, raised), self.kept = self.kept, None
        try:
            if raised is not None:
                raise raised
            return self._watched(awaited)
        finally:
            del raised  # whose traceback leads back here: without this circle nothing is left to collect

    def throw(self, error: Any, *rest: Any) -> Any:
        """Raise an error where the coroutine stands; called by the task, when it was cancelled."""
        (awaited, raised), self.kept = self.kept or (None, None), None
        try:
            if raised is not None:  # it stands nowhere any more
                raise error if isinstance(raised, StopIteration) else raised
            if asyncio.isfuture(awaited):
                awaited.cancel()
            return self._watched(self.coro.throw(error, *rest))
        finally:
            del error, raised

    def close(self) -> None:
        """End the coroutine; called when its task is given up."""
        self.coro.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self.coro.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.coro, name)  # for those who look at a coroutine: its name, where it stands

    def _watched(self, awaited: Any) -> Any:
        if hasattr(awaited, "paced"):  # a Beat, be it of the code from before an edit
            awaited.paced, awaited.task = self, cast("asyncio.Task[Any]", asyncio.current_task())
        return awaited


class Bucket:
    """The counters whose beats fall on the same moments: `start + number * interval_s` on the loop's clock."""

    __slots__ = ("chunks", "due", "interval_s", "key", "lateness_s", "loop", "members", "number", "start", "timer")

    timer: asyncio.TimerHandle

    def __init__(self, key: tuple[float, float], start: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.key = key
        self.interval_s = key[0]
        self.start = start
        self.number = self.number_now()  # of the last beat that came due
        self.due = start  # when the beat that is being worked came due: after a stall, the first of several
        self.lateness_s = 0.0  # of the last beat
        self.chunks = 0  # of the last beat that are still to be worked
        self.members: dict[Beat, None] = {}

    def number_now(self) -> int:
        """Compute the number of the last beat that came due by now."""
        # The microsecond is for a timer that fires a rounding error early.
        return math.floor((self.loop.time() - self.start + 1e-6) / self.interval_s)


class Metronome:
    """Wakes the counters of one loop at their beats: one timer for each bucket, not one for each counter.

    A wake-up of the loop costs some fifty times what it costs to resume a task, so counters that beat together share
    a timer (the idea of Varghese and Lauck's timing wheels, https://doi.org/10.1145/37499.37504; here a counter keeps
    its place, instead of being put into a slot again at each beat). A beat is computed from its number, never from
    the beat before, so nothing drifts; after a stall one wake-up gives all the beats that came due. A burst is worked
    through `PIECE` counters at a time, so that the loop can do other things in between. Use it on its loop only.
    """

    def __init__(self) -> None:
        self.latenesses: deque[tuple[float, int]] = deque(maxlen=5_000)  # (seconds, of how many beats)
        self._buckets: dict[tuple[float, float], Bucket] = {}
        self._due: deque[tuple[Bucket, list[Beat]]] = deque()
        self._nobody = contextvars.Context()  # the timers': that of a counter would keep it alive

    def join(self, start: float, interval_s: float) -> Beat:
        """Make the awaitable of a counter whose beats are at `start + k * interval_s` on the loop's clock."""
        key = (interval_s, round(start % interval_s, 6))
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(key, start)
            self._set_timer(bucket)
        beat = Beat(bucket, round((start - bucket.start) / interval_s))
        bucket.members[beat] = None
        return beat

    def leave(self, beat: Beat) -> None:
        """Forget a counter that has ended."""
        bucket = beat.bucket
        bucket.members.pop(beat, None)
        beat.paced = None
        with suppress(AttributeError):  # it was never awaited
            del beat.context, beat.task  # they lead back to the counter: without this circle nothing is garbage
        if not bucket.members and bucket.key in self._buckets:
            del self._buckets[bucket.key]
            bucket.timer.cancel()

    def _set_timer(self, bucket: Bucket) -> None:
        due = bucket.start + (bucket.number + 1) * bucket.interval_s
        bucket.timer = bucket.loop.call_at(due, self._fire, bucket, context=self._nobody)

    def _fire(self, bucket: Bucket) -> None:
        due = bucket.start + (bucket.number + 1) * bucket.interval_s
        bucket.number = max(bucket.number + 1, bucket.number_now())
        self._set_timer(bucket)
        if bucket.chunks:
            return  # the beat before is still being worked: its members will be given both
        members = list(bucket.members)
        chunks = [(bucket, members[i : i + PIECE]) for i in range(0, len(members), PIECE)]
        bucket.due, bucket.chunks = due, len(chunks)
        idle = not self._due
        self._due.extend(chunks)
        if idle and bucket.loop.time() - due < GRID_S:
            self._work()
        elif idle:
            bucket.loop.call_soon(self._work)  # after a stall many buckets fire at once: breathe between them

    def _work(self) -> None:
        bucket, members = self._due.popleft()
        bucket.chunks -= 1
        bucket.lateness_s = max(0.0, bucket.loop.time() - bucket.due)
        self.latenesses.append((bucket.lateness_s, len(members)))
        number, loop = bucket.number, bucket.loop
        enter, leave = asyncio._enter_task, asyncio._leave_task
        waiting = iter(members)
        try:
            for beat in waiting:
                wake_up, paced = beat.wake_up, beat.paced
                if wake_up is None or beat.seen >= number:
                    continue
                beat.wake_up = None
                if paced is not None:
                    enter(loop, beat.task)
                    try:
                        awaited = beat.context.run(paced.coro.send, None)
                        if awaited is beat and beat.paced is paced:  # and it was not cancelled in the meantime
                            beat._asyncio_future_blocking = None
                            beat.wake_up = wake_up
                            continue
                        paced.kept = awaited, None
                    except BaseException as error:
                        paced.kept = None, error
                    finally:
                        leave(loop, beat.task)
                    beat.paced = None
                beat.context.run(wake_up, beat)
        finally:
            rest = list(waiting)  # empty, unless a task raised SystemExit, which asyncio lets through
            if rest:
                bucket.chunks += 1
                self._due.appendleft((bucket, rest))
            if self._due:
                bucket.loop.call_soon(self._work)


# Counters and their jobs


class Counter:
    """One run of a job: what the job is handed. Only the job writes it, from one thread at a time.

    A job reads `name`, `interval_s`, `target` and `finished`, awaits `beat`, and tells what it did with `add` and
    `log`. In a test of a job make one yourself: `Counter(name="x", interval_s=1.0, target=5)`.
    """

    __slots__ = ("_beat", "_lines", "_metronome", "_start", "id", "interval_s", "name", "stopping", "target", "value")

    def __init__(
        self, id: int = 0, *, name: str = "counter", interval_s: float = 1.0, target: int | None = None
    ) -> None:
        self.id = id
        self.name = name
        self.interval_s = interval_s  # seconds
        self.target = target
        self.value = 0
        self.stopping = False  # Stop was asked: for a function in a thread, which cannot be cancelled
        self._start: float | None = None  # on the loop's clock; None: at the first beat
        self._metronome: Metronome | None = None  # None: one of its own
        self._beat: Beat | None = None
        self._lines: deque[tuple[float, str]] | None = None

    @property
    def finished(self) -> bool:
        """True when the value has reached the target; never without a target."""
        return self.target is not None and self.value >= self.target

    def beat(self) -> Awaitable[int]:
        """Wait for the next multiple of `interval_s` since the start; give how many came due since the last one.

        That is 1, and more after a stall: beats are neither lost nor made up for in a burst. On the loop only.
        """
        return self._beat or self._first_beat()

    def add(self, n: int = 1) -> None:
        """Add `n` to the value."""
        self.value += n

    def log(self, text: str) -> None:
        """Add a line to the log, which keeps the last 100; from any thread."""
        if self._lines is None:
            self._lines = deque(maxlen=LOG_LINES)
        self._lines.append((time.time(), str(text)[:LOG_WIDTH]))

    def _first_beat(self) -> Beat:
        if self._start is None:
            self._start = asyncio.get_running_loop().time()
        self._beat = (self._metronome or Metronome()).join(self._start, self.interval_s)
        return self._beat


Job = Callable[..., Awaitable[object]]  # is called with a Counter, and with its options by keyword


async def count(counter: Counter) -> None:
    """Add one at every beat until the target is reached. Stop takes effect at once."""
    while not counter.finished:
        counter.add(await counter.beat())


async def count_in_thread(counter: Counter) -> None:
    """Count, with each addition made in a worker thread. Stop takes effect after the current addition."""
    while not counter.finished:
        beats = await counter.beat()
        value = await uncut(to_thread.run_sync(operator.add, counter.value, beats))
        counter.add(value - counter.value)


async def count_in_process(counter: Counter) -> None:
    """Count, with each addition made in one of a few worker processes. Stop waits for the current addition."""
    while not counter.finished:
        beats = await counter.beat()
        try:
            value = await uncut(to_process.run_sync(operator.add, counter.value, beats))
        except anyio.BrokenWorkerProcess as error:
            raise RuntimeError("the worker process ended in the middle of an addition: was it killed?") from error
        counter.add(value - counter.value)


async def uncut(call: Coroutine[Any, Any, T]) -> T:
    """Await a short call that a stop must not cut in two: when it comes, let the call end first, then stop."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):  # asked again: the call still goes on
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen: nobody is left to hear of it
        raise


def in_thread(function: Callable[..., object]) -> Job:
    """Make a job of a blocking function that takes a Counter: each counter runs it in a worker thread.

    A thread cannot be cancelled: let the function look at `counter.stopping` wherever it could end.
    """

    @functools.wraps(function)
    async def job(counter: Counter, **options: object) -> object:
        thread = anyio.CapacityLimiter(1)  # of its own: some that never end must not use up anyio's forty
        call = asyncio.ensure_future(to_thread.run_sync(partial(function, counter, **options), limiter=thread))
        while not call.done():
            with suppress(asyncio.CancelledError):  # however often: the job ends when its function does
                await asyncio.wait([call])
        return call.result()

    return job


def at_most(n: int, job: Job) -> Job:
    """Let at most `n` counters of a job run at once; the others are `queued`, and begin in order."""
    if n < 1:
        raise ValueError(f"at_most needs a whole number from 1, got {n!r}")

    @functools.wraps(job)
    async def limited(counter: Counter, **options: object) -> object:
        return await job(counter, **options)

    vars(limited)["at_most"] = n
    return limited


@dataclass(frozen=True, slots=True)
class Option:
    """A keyword argument of a job that a form can ask for."""

    name: str
    kind: type  # int, float, str, bool; or object, with choices
    default: object  # None where there is none
    required: bool
    choices: tuple[object, ...] = ()


def options_of(job: Job) -> tuple[Option, ...]:
    """List what a job wants to be told beside its Counter: its annotated keyword arguments.

    Raises:
        TypeError: an annotation that is not int, float, str, bool, a Literal or an Enum.
    """
    parameters = list(inspect.signature(job).parameters.values())[1:]
    hints = get_type_hints(function_of(job))
    return tuple(
        _option(parameter, hints.get(parameter.name, type(parameter.default)))
        for parameter in parameters
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    )


def function_of(job: Job) -> Callable[..., object]:
    """Give the function inside a job, under all that `partial`, `at_most` and `in_thread` put around it."""
    while (inner := getattr(inspect.unwrap(job), "func", inspect.unwrap(job))) is not job:
        job = inner
    return job if inspect.isroutine(job) else type(job).__call__


JOBS: dict[str, Job] = {
    "On the loop": count,
    "In a thread": count_in_thread,
    "In a process": count_in_process,
}


# The board


@dataclass(slots=True, eq=False)
class _Record:
    """What the board notes of a counter. Only the board writes it: its state under the lock, the rest on the loop."""

    counter: Counter
    job: Job
    job_name: str
    owner: str | None
    options: Mapping[str, object]
    started_at: float
    place: int  # among the samples
    state: State
    loaded_at: float = _LOADED_AT  # its code
    history: Sequence[int] | None = None  # None while it runs: it is among the samples
    task: asyncio.Task[object] | None = None  # None before it began and after it ended
    children: weakref.WeakSet[asyncio.Task[Any]] | None = None
    stop_asked_at: float | None = None
    told: bool = False  # its task was cancelled
    ended_at: float | None = None
    printed: str = ""  # the line that `print` has begun
    result: str | None = None
    error: str | None = None
    traceback: str | None = None


@dataclass(slots=True)
class _Bulk:
    """Counters that were started together: the board makes them bit by bit, in the order of their ids."""

    ids: range
    job: Job
    job_name: str
    name: str
    interval_s: float
    target: int | None
    owner: str | None
    options: Mapping[str, object]
    started_at: float
    made: int = 0
    records: list[_Record] = field(default_factory=list)


class _Samples:
    """The values of all that run, once a second: for each of the last seconds a column, with a place for each counter.

    Taken on the loop; read from any thread. Takes less time, and a third less memory, than a list for each counter.
    """

    def __init__(self) -> None:
        self.ticks = 0  # of all counters there ever were, at the last sample
        self.last: tuple[int, tuple[array[int], ...]] = (0, ())  # its number, and the columns up to it
        self._counters: list[Counter] = []  # by place
        self._first: list[int] = []  # by place: the number of the sample before the counter came
        self._left: list[tuple[int, int]] = []  # places and values of those ended since the last sample
        self._free: list[int] = []
        self._gone = 0  # the values of those that have ended

    def join(self, counter: Counter) -> int:
        """Give a counter a place; under the board's lock."""
        if self._free:
            place = self._free.pop()
            self._counters[place], self._first[place] = counter, self.last[0]
        else:
            place = len(self._counters)
            self._first.append(self.last[0])
            self._counters.append(counter)
        return place

    def leave(self, place: int, value: int) -> None:
        """Free a place, when its counter has ended with a value."""
        self._left.append((place, value))  # until the next sample, so that one under way counts everything once

    def history(self, place: int) -> Sequence[int]:
        """List the values of a counter, oldest first."""
        number, columns = self.last
        columns = columns[max(0, len(columns) - number + self._first[place]) :]
        return [column[place] for column in columns if place < len(column)]

    async def take(self) -> None:
        """Take the next sample."""
        number, columns = self.last
        while self._left:
            for left, value in [self._left.pop() for _ in self._left[:PIECE]]:
                self._gone += value
                self._counters[left] = _NOBODY
                self._free.append(left)
            await asyncio.sleep(0)
        column = array("q")
        while (n := len(column)) < len(self._counters):
            column.extend(self._values(n, n + 10 * PIECE))
            await asyncio.sleep(0)
        self.ticks = self._gone + sum(column)
        self.last = number + 1, (*columns[2 - HISTORY :], column)  # in one, so that no reader sees half of it

    def _values(self, first: int, end: int) -> "array[int]":
        counters = self._counters[first:end]
        values = [counter.value for counter in counters]
        if set(map(type, values)) != {int} or min(values) <= -BIGGEST or max(values) >= BIGGEST:
            values = [_whole(counter, self.history(number)) for number, counter in enumerate(counters, first)]
        return array("q", values)


def _whole(counter: Counter, history: Sequence[int]) -> int:
    """Read a counter's value, or the last that could be drawn: a job may write anything there."""
    value = counter.value
    return value if type(value) is int and -BIGGEST < value < BIGGEST else next(reversed(history), 0)


_NOBODY = Counter()


class _Turns:
    """How many counters of one job run, and which wait for their turn."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting: deque[_Record] = deque()


class _Audience:
    """The counters of everyone, or of one owner, in the order of their ids, and how many are in each state."""

    def __init__(self) -> None:
        self.records: dict[int, _Record] = {}
        self.states = dict.fromkeys(State, 0)
        self.renewed_at = time.monotonic()


# Whose job is running. Like the board it must outlive an edit, because what was made before the edit looks there.
_current: contextvars.ContextVar[_Record] = vars(threading.main_thread()).setdefault(
    "current_counter", contextvars.ContextVar("current_counter")
)


class Board:
    """All counters of one server: starts, stops and shows them. Every method is thread-safe and returns at once.

    What a command did shows in the next read, from any thread. Of a huge start the number shows at once and the rows
    within seconds. `owner` is whatever tells visitors apart: a counter with an owner is private to that visitor, and
    stops, and is then removed, when its owner has not been renewed for `lease_s` seconds.
    """

    def __init__(
        self,
        runner: LoopRunner,
        *,
        max_active: int = 100_000,
        max_ended: int = 100_000,
        stop_timeout_s: float = 5.0,
        lease_s: float = 120.0,
    ) -> None:
        self.runner = runner
        self.max_active = max_active
        self.max_ended = max_ended  # kept; the oldest are forgotten
        self.stop_timeout_s = stop_timeout_s
        self.lease_s = lease_s
        self._lock = threading.Lock()
        self._last_id = 0
        self._records: dict[int, _Record] = {}
        self._audiences: dict[str | None, _Audience] = {None: _Audience()}
        self._states = dict.fromkeys(State, 0)
        self._ended: dict[int, None] = {}
        self._bulks: list[_Bulk] = []
        self._turns: dict[str, _Turns] = {}  # of jobs that may not all run at once, by name
        self._stops: deque[tuple[float, list[_Record]]] = deque()  # (deadline, who was asked)
        self._changes = 0  # of any state, or of who is on the board
        self._matches: dict[tuple[str, frozenset[str], str | None], tuple[int, list[_Record]]] = {}
        self._sharing = threading.Lock()
        self._pages: dict[tuple[object, ...], tuple[int, float, Page]] = {}  # (changes, read at, …), the last few
        self._metronome = Metronome()
        self._nobody = contextvars.Context()  # in which no counter is current
        self._frozen_at: float | None = None  # when the garbage collector was told to let all there is alone
        self._samples = _Samples()
        self._ticks_per_s = 0.0
        self._sampled = (time.monotonic(), 0)  # when the last sample was taken, and the ticks then
        self._lateness_s = (0.0, 0.0)
        self._series: tuple[deque[float], ...] = tuple(deque(maxlen=60) for _ in range(3))  # running, ticks/s, ended
        runner.at_close(self._stop_everything)
        _listen()
        self._submit(self._tend())

    # Commands

    def start(
        self,
        job: Job,
        *,
        name: str,
        n: int = 1,
        interval_s: float = 1.0,
        target: int | None = None,
        owner: str | None = None,
        options: Mapping[str, object] | None = None,
    ) -> Sequence[int]:
        """Start `n` counters of a job, named `name 1`, `name 2`, … if there are several; return their ids.

        Their first beats are spread over one interval, so that many do not all beat at once. `options` are the job's
        keyword arguments.

        Raises:
            ValueError: a value out of range, or no room for `n` more; nothing was started.
            RuntimeError: the runner is closed.
        """
        _check(job, name, n, interval_s, target, owner)
        options = _checked(job, options or {})
        job_name = _name_of(job)
        with self._lock:
            self._check_room(n)
            ids = range(self._last_id + 1, self._last_id + 1 + n)
            bulk = _Bulk(ids, job, job_name, name, float(interval_s), target, owner, options, time.time())
            self._submit(self._launch(bulk))
            self._last_id = ids[-1]
            self._bulks.append(bulk)
            audience = self._audiences.setdefault(owner, _Audience())
            audience.renewed_at = time.monotonic()
            for states in (audience.states, self._states):
                states[_first_state(job)] += n
            self._make(bulk, PIECE)
        return ids

    def stop(self, ids: Iterable[int]) -> int:
        """Ask the counters to stop; return at once, with how many were asked.

        Each is `stopping` until its coroutine has ended, clean-up included, and `stuck` after `stop_timeout_s`; a
        stuck one is asked again. Those that have ended already, or were removed, are left alone.

        Raises:
            KeyError: an id that was never given out; nothing was stopped.
        """
        asked: list[_Record] = []
        for piece in _pieces(self._known(ids)):
            with self._lock:
                for record in map(self._records.get, piece):
                    if record is not None and record.state in (State.QUEUED, State.RUNNING):
                        record.stop_asked_at = time.time()
                        record.counter.stopping = True
                        if record.state == State.QUEUED:
                            self._finish(record, State.STOPPED)
                        else:
                            self._move(record, State.STOPPING)
                        asked.append(record)
                    elif record is not None and record.state == State.STUCK:
                        asked.append(record)
        if asked:
            self._stops.append((time.monotonic() + self.stop_timeout_s, asked))
            with suppress(RuntimeError):  # closed: everything is being stopped already
                self._submit(self._cancel(asked))
        return len(asked)

    def restart(self, ids: Iterable[int]) -> int:
        """Start ended counters again, from zero, under the same ids; leave the others alone. Return how many.

        Raises:
            KeyError: an id that was never given out; nothing was restarted.
            ValueError: no room for so many; nothing was restarted.
            RuntimeError: the runner is closed.
        """
        known = dict.fromkeys(self._known(ids))
        with self._lock:
            ended = [self._records[id] for id in known if id in self._ended]
            self._check_room(len(ended))
            fresh = [self._restarted(old) for old in ended]
            self._submit(self._begin_all(fresh))
            for old, record in zip(ended, fresh, strict=True):
                id = record.counter.id
                for states in (self._states, self._audiences[record.owner].states):
                    states[old.state] -= 1  # `old` stays as it ended: a page may be reading it
                    states[record.state] += 1
                self._changes += 1
                del self._ended[id]
                self._records[id] = self._audiences[record.owner].records[id] = record
        return len(fresh)

    def remove(self, ids: Iterable[int]) -> int:
        """Take ended counters off the board; leave the others alone. Return how many.

        Raises:
            KeyError: an id that was never given out; nothing was removed.
        """
        removed = 0
        for piece in _pieces(self._known(ids)):
            with self._lock:
                for id in piece:
                    if id in self._ended:
                        self._remove(id)
                        removed += 1
        return removed

    def renew(self, owner: str) -> None:
        """Say that the owner's page is still open."""
        with self._lock:
            if audience := self._audiences.get(owner):
                audience.renewed_at = time.monotonic()

    # What a page reads

    def totals(self) -> Totals:
        """Read the running totals of the whole board; costs the same for any number of counters."""
        self._expire()
        with self._lock:
            return Totals(
                states=dict(self._states),
                ticks=self._samples.ticks,
                ticks_per_s=self._ticks_per_s,
                lateness_p50_s=self._lateness_s[0],
                lateness_p99_s=self._lateness_s[1],
                running_history=tuple(self._series[0]),
                ticks_history=tuple(self._series[1]),
                ended_history=tuple(self._series[2]),
            )

    def page(
        self,
        *,
        offset: int = 0,
        limit: int = 50,
        match: str = "",
        states: Collection[str] = (),
        owner: str | None = None,
        max_age_s: float = 0.0,
    ) -> Page:
        """Read the rows from `offset` on that match: the owner's private ones first, then everyone's, oldest first.

        `match` is looked for in the names, whatever their case; `states` empty means all. Without an owner nobody's
        private counters are shown. Costs what it returns, and a search the first time after something changed.

        Those who pass a `max_age_s` share with each other what one of them read in the last so many seconds, unless a
        state changed or a counter came or went since.
        """
        self._expire()
        if max_age_s <= 0:
            return self._page(offset, limit, match, states, owner)
        owner = owner if owner in self._audiences else None  # who has none of his own is shown what everyone is
        key = (offset, limit, match, frozenset(states), owner)
        with self._sharing:  # one reads, the others wait for it: nobody is shown what is older than what he saw
            changes, read_at, page = self._pages.get(key, (-1, 0.0, None))
            if page is None or changes != self._changes or time.monotonic() - read_at >= max_age_s:
                changes, read_at = self._changes, time.monotonic()  # before it is read
                page = self._page(offset, limit, match, states, owner)
                self._pages[key] = (changes, read_at, page)
                while len(self._pages) > 16:
                    del self._pages[next(iter(self._pages))]
            return page

    def ids(self, *, match: str = "", states: Collection[str] = (), owner: str | None = None) -> Sequence[int]:
        """List the ids of all rows that `page` would show, to act on them."""
        self._make_up_to(self._last_id)
        return [record.counter.id for record in self._find(match, states, owner)]

    def detail(self, id: int) -> Detail:
        """Read all there is about one counter.

        Raises:
            KeyError: an id that was never given out, or was removed.
        """
        self._expire()
        self._known([id])
        record = self._records.get(id)
        if record is None:
            raise KeyError(f"counter {id} was removed: choose another")
        [row] = self._rows([record])
        log = [*(record.counter._lines or ()), (record.started_at, "started")]
        if record.stop_asked_at is not None:
            log.append((record.stop_asked_at, "asked to stop"))
        if row.where is not None:
            log.append((time.time(), f"does not stop: it stands at {row.where}"))
        log.sort(key=operator.itemgetter(0))
        if row.ended_at is not None:
            log.append((row.ended_at, f"{row.state} at {row.value}"))
        return Detail(row, record.options, tuple(log), record.result, record.traceback)

    # On the loop

    def _submit(self, coro: Coroutine[Any, Any, None]) -> None:
        """Have the loop run it in a context of its own: it belongs to no page, and to no counter whose job asks."""
        contextvars.Context().run(self.runner.submit, coro)

    async def _launch(self, bulk: _Bulk) -> None:
        collects = gc.isenabled()
        gc.disable()  # for now: it looked for garbage for 2.4 of the 5.7 s in which 100,000 counters started
        try:
            for first in range(0, len(bulk.ids), PIECE):
                with self._lock:
                    self._make(bulk, first + PIECE)
                self._begin(bulk.records[first : first + PIECE], first, len(bulk.ids))
                await asyncio.sleep(0)
        finally:
            if len(bulk.ids) >= MANY:
                gc.freeze()
                self._frozen_at = self._frozen_at or time.monotonic()
            if collects:
                gc.enable()

    def _thaw(self) -> None:
        """Once an hour, have the collector look at what was frozen.

        The 1.5 million objects of 100,000 counters hold no garbage, but Python's collector stops everything for half a
        second whenever it looks through them all: eight times in 20 s while pages were read, with beats 0.36 s late
        (p99). So they are frozen, kept out of its sight: 0.03 s. But whatever else is alive then is frozen with them,
        and some of it becomes garbage later, the sockets of Streamlit's former sessions for one.
        """
        if self._frozen_at is not None and time.monotonic() - self._frozen_at >= 3_600:
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            self._frozen_at = time.monotonic()

    async def _begin_all(self, records: list[_Record]) -> None:
        for first in range(0, len(records), PIECE):
            self._begin(records[first : first + PIECE], first, len(records))
            await asyncio.sleep(0)

    def _begin(self, records: list[_Record], first: int, n: int) -> None:
        now = math.ceil(asyncio.get_running_loop().time() / GRID_S)
        for position, record in enumerate(records, first):
            earlier = (n - 1 - position) / n * record.counter.interval_s  # as if started one by one, for one interval
            record.counter._start = (now - math.floor(earlier / GRID_S)) * GRID_S
            if record.state == State.QUEUED:
                self._turns.setdefault(record.job_name, _Turns()).waiting.append(record)
                self._next_turn(record)
            elif record.state in ACTIVE:
                self._run(record)

    def _run(self, record: _Record) -> None:
        counter = record.counter
        context = contextvars.Context()  # not the caller's: that would keep a visitor's page alive
        context.run(_current.set, record)
        task = asyncio.Task(_coroutine(record), name=f"counter {counter.id} ({counter.name})", context=context)
        task.add_done_callback(partial(self._end, record), context=self._nobody)
        record.task = task
        if record.state == State.STOPPING:  # asked before it began
            record.told = task.cancel()

    def _next_turn(self, record: _Record) -> None:
        """Let those begin that waited for their turn, as many as the job allows."""
        turns = self._turns[record.job_name]
        while turns.waiting and turns.running < getattr(record.job, "at_most", math.inf):
            following = turns.waiting.popleft()
            with self._lock:
                if following.state != State.QUEUED:
                    continue  # it was stopped meanwhile
                self._move(following, State.RUNNING)
            turns.running += 1
            following.counter._start = None  # its beats count from now
            self._run(following)

    async def _cancel(self, records: Collection[_Record]) -> None:
        for piece in _pieces(records):
            for record in piece:
                if record.task is not None:
                    record.told = record.task.cancel()
            await asyncio.sleep(0)

    def _end(self, record: _Record, task: "asyncio.Task[object]") -> None:
        """Note how the counter's coroutine has really ended, its clean-up included."""
        counter = record.counter
        error = None if task.cancelled() else task.exception()
        for child in record.children or ():
            if not child.done() and not child.get_name().startswith("AnyIO "):  # its pool's caretaker outlives this job
                child.cancel()
                counter.log(f"left a task behind, which is cancelled: {child.get_name()}")
        if counter._beat is not None:
            self._metronome.leave(counter._beat)
        if record.printed:
            counter.log(record.printed)
        if error is not None:
            record.error = _one_line(error)
            record.traceback = "".join(traceback.format_exception(error))[-LOG_LINES * LOG_WIDTH :]
            _log.error("%s failed", task.get_name(), exc_info=error)
        elif not task.cancelled() and task.result() is not None:
            record.result = _shown(task.result())
        finished = False
        with suppress(Exception):  # the job may have written anything there
            finished = counter.finished
        with self._lock:
            asked = record.state != State.RUNNING
            if error is not None:
                self._finish(record, State.FAILED)
            elif task.cancelled() or (asked and not finished):
                self._finish(record, State.STOPPED)
            else:
                self._finish(record, State.DONE)
        if hasattr(record.job, "at_most"):
            self._turns[record.job_name].running -= 1
            self._next_turn(record)

    async def _tend(self) -> None:
        """Once a second take a sample of everything, and act on what is overdue."""
        asyncio.get_running_loop().set_task_factory(_new_task)
        started = time.monotonic()
        while True:
            await asyncio.sleep(1.0 - (time.monotonic() - started) % 1.0)
            try:
                await self._sample()
                self._expire()
                self._end_leases()
                self._thaw()
            except Exception:
                _log.exception("the board could not take a sample")

    async def _sample(self) -> None:
        await self._samples.take()
        latenesses = sorted(self._metronome.latenesses)
        self._metronome.latenesses.clear()
        (sampled_at, ticks), self._sampled = self._sampled, (time.monotonic(), self._samples.ticks)
        with self._lock:
            self._lateness_s = _quantile(latenesses, 0.5), _quantile(latenesses, 0.99)
            self._ticks_per_s = (self._samples.ticks - ticks) / (self._sampled[0] - sampled_at)
            for series, value in zip(self._series, (self._active(), self._ticks_per_s, len(self._ended)), strict=True):
                series.append(value)

    def _expire(self) -> None:
        """Call those stuck that should have ended by now. Readers do it too, in case the loop is blocked."""
        with self._lock:
            while self._stops and self._stops[0][0] <= time.monotonic():
                for record in self._stops.popleft()[1]:
                    if record.state == State.STOPPING:
                        self._move(record, State.STUCK)
                        _log.warning("counter %d (%s) does not stop", record.counter.id, record.counter.name)

    def _end_leases(self) -> None:
        for owner, audience in list(self._audiences.items()):
            if owner is not None and time.monotonic() - audience.renewed_at > self.lease_s:
                self.stop(list(audience.records))
                self.remove(list(audience.records))

    async def _stop_everything(self) -> None:
        self.stop(range(1, self._last_id + 1))
        records = list(self._records.values())
        await self._cancel([record for record in records if not record.told or record.state == State.STUCK])
        while active := [record for record in self._records.values() if record.state in ACTIVE]:
            tasks = [record.task for record in active if record.task is not None]
            await (asyncio.wait(tasks) if tasks else asyncio.sleep(GRID_S))
        if self._frozen_at is not None:
            gc.unfreeze()

    # Under the lock

    def _check_room(self, n: int) -> None:
        room = self.max_active - self._active()
        if n > room:
            raise ValueError(
                f"no room for {n:,} more: {room:,} of {self.max_active:,} places are free; stop some first"
            )

    def _active(self) -> int:
        return sum(self._states[state] for state in ACTIVE)

    def _make(self, bulk: _Bulk, upto: int) -> None:
        upto = min(upto, len(bulk.ids))
        if upto <= bulk.made:
            return
        records = self._audiences[bulk.owner].records
        for position in range(bulk.made, upto):
            name = bulk.name if len(bulk.ids) == 1 else f"{bulk.name} {position + 1}"
            counter = Counter(bulk.ids[position], name=name, interval_s=bulk.interval_s, target=bulk.target)
            counter._metronome = self._metronome
            record = _Record(
                counter,
                bulk.job,
                bulk.job_name,
                bulk.owner,
                bulk.options,
                bulk.started_at,
                self._samples.join(counter),
                _first_state(bulk.job),
            )
            self._records[counter.id] = records[counter.id] = record
            bulk.records.append(record)
        bulk.made = upto
        self._changes += 1
        if upto == len(bulk.ids):
            self._bulks.remove(bulk)

    def _restarted(self, old: _Record) -> _Record:
        counter = Counter(
            old.counter.id, name=old.counter.name, interval_s=old.counter.interval_s, target=old.counter.target
        )
        counter._metronome = self._metronome
        job = JOBS.get(old.job_name, old.job)  # by its name, for the code may have been edited
        place = self._samples.join(counter)
        return _Record(counter, job, old.job_name, old.owner, old.options, time.time(), place, _first_state(job))

    def _move(self, record: _Record, state: State) -> None:
        for states in (self._states, self._audiences[record.owner].states):
            states[record.state] -= 1
            states[state] += 1
        record.state = state
        self._changes += 1

    def _finish(self, record: _Record, state: State) -> None:
        record.ended_at, record.task = time.time(), None
        record.history = array("q", self._samples.history(record.place))
        self._samples.leave(record.place, _whole(record.counter, record.history))
        self._move(record, state)
        self._ended[record.counter.id] = None
        if len(self._ended) > self.max_ended:
            self._remove(next(iter(self._ended)))

    def _remove(self, id: int) -> None:
        del self._ended[id]
        record = self._records.pop(id)
        audience = self._audiences[record.owner]
        del audience.records[id]
        for states in (self._states, audience.states):
            states[record.state] -= 1
        if record.owner is not None and not audience.records and not any(audience.states.values()):
            del self._audiences[record.owner]
        self._changes += 1

    def _seen_by(self, owner: str | None) -> list[_Audience]:
        return [self._audiences[of] for of in ((None,) if owner is None else (owner, None)) if of in self._audiences]

    # Without the lock

    def _known(self, ids: Iterable[int]) -> list[int]:
        known = list(ids)
        for id in known:
            if not 0 < id <= self._last_id:
                raise KeyError(f"there never was a counter {id!r}: take ids from start, page or ids")
        self._make_up_to(max(known, default=0))
        return known

    def _make_up_to(self, id: int) -> None:
        for bulk in list(self._bulks):
            while bulk.made < len(bulk.ids) and bulk.ids[bulk.made] <= id:
                with self._lock:
                    self._make(bulk, bulk.made + PIECE)

    def _page(self, offset: int, limit: int, match: str, states: Collection[str], owner: str | None) -> Page:
        with self._lock:
            seen = self._seen_by(owner)
            counts = {state: sum(audience.states[state] for audience in seen) for state in State}
            if not match and not states:
                everything = itertools.chain.from_iterable(audience.records.values() for audience in seen)
                picked = list(itertools.islice(everything, offset, offset + limit))
        if match or states:
            found = self._find(match, states, owner)
            return Page(self._rows(found[offset : offset + limit]), len(found), counts)
        return Page(self._rows(picked), sum(counts.values()), counts)

    def _find(self, match: str, states: Collection[str], owner: str | None) -> list[_Record]:
        """List the matching counters; the last few searches are kept for as long as nothing changed."""
        wanted = match.casefold()
        key = (wanted, frozenset(states), owner)
        with self._lock:
            changes, found = self._matches.get(key, (-1, []))
            if changes == self._changes:
                return found
            changes = self._changes
            candidates = [record for audience in self._seen_by(owner) for record in audience.records.values()]
        if states:
            candidates = [record for record in candidates if record.state in key[1]]
        if wanted:
            candidates = [record for record in candidates if wanted in record.counter.name.casefold()]
        with self._lock:
            self._matches[key] = (changes, candidates)
            while len(self._matches) > 16:
                del self._matches[next(iter(self._matches))]
        return candidates

    def _rows(self, records: Iterable[_Record]) -> tuple[Row, ...]:
        edits: dict[int, float] = {}  # one look at a job's file is enough for all of its rows
        return tuple([self._row(record, edits) for record in records])

    def _row(self, record: _Record, edits: dict[int, float]) -> Row:
        state = record.state  # first: when it says that the counter has ended, the rest is final
        counter, task = record.counter, record.task
        history = self._samples.history(record.place) if record.history is None else record.history
        value = _whole(counter, history)
        if id(record.job) not in edits:
            edits[id(record.job)] = _edited_at(record.job)
        return Row(
            id=counter.id,
            name=counter.name,
            job=record.job_name,
            state=state,
            value=value,
            target=counter.target,
            interval_s=counter.interval_s,
            lateness_s=counter._beat.bucket.lateness_s if counter._beat and task is not None else 0.0,
            private=record.owner is not None,
            history=(*history, value),
            started_at=record.started_at,
            ended_at=record.ended_at,
            error=record.error,
            where=place(_stack(task)) if state == State.STUCK and task is not None else None,
            outdated=state in ACTIVE and edits[id(record.job)] > record.loaded_at,
        )


# The one board of a process


def shared_board() -> Board:
    """Give the one open board of this process, made with a loop of its own when there is none.

    It is kept where neither an edit of the code nor a cleared cache can lose it, with its own lock: the main thread.
    Then there is one loop, whoever asks, and no board runs on unseen.
    """
    home = vars(threading.main_thread())
    with home.setdefault("shared_board_lock", threading.Lock()):
        board = home.get("shared_board")
        if board is None or board.runner.closed:
            board = home["shared_board"] = Board(LoopRunner(name="counters"))
        return adopt(board)


def adopt(board: Board) -> Board:
    """Give a board that was made before an edit of this file the code of now; its counters run on."""
    board.__class__, board.runner.__class__ = Board, LoopRunner
    return board


def release(board: Board) -> None:
    """Have the board stop everything and end its loop, without waiting for it."""
    board.runner.close(wait=False)


@asynccontextmanager
async def lifespan(app: object) -> AsyncIterator[None]:
    """Close the shared board, all clean-up included, when the server that runs `app` shuts down.

    Before, have the garbage collector leave alone what the server has loaded: it looks through all that again and
    again, which took an eighth of what a refresh of the page costs.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        board = vars(threading.main_thread()).get("shared_board")
        if board is not None:
            before = sum(board.totals().states[state] for state in ACTIVE)
            # With what Streamlit does itself the process is gone within six seconds.
            left = await to_thread.run_sync(partial(board.runner.close, timeout_s=4.5))
            after = sum(board.totals().states[state] for state in ACTIVE)
            if before or left:
                said = [f"{before - after:,} counter{'s' * (before - after != 1)} ended"]
                print(*said, *(f"{name} did not end in time" for name in left), sep="; ")


# Private helpers


class _Prints:
    """Standard output; what a job prints lands in its counter's log as well."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        if (record := _current.get(None)) is not None:
            *lines, rest = (record.printed + text).split("\n")
            record.printed = rest[-LOG_WIDTH:]
            for line in lines[-LOG_LINES:]:
                record.counter.log(line)
        return self.stream.write(text)


def _listen() -> None:
    """Have what jobs print and log land in their counters' logs too: once for the process, whatever was edited."""
    if type(sys.stdout).__name__ != "_Prints":
        sys.stdout = cast(TextIO, _Prints(sys.stdout))
    make = logging.getLogRecordFactory()
    if make.__name__ != "make_and_note":

        def make_and_note(*args: Any, **options: Any) -> logging.LogRecord:
            made = make(*args, **options)
            if (record := _current.get(None)) is not None:
                with suppress(Exception):  # wrong arguments of a message: logging tells of those itself
                    record.counter.log(f"{made.levelname}: {made.getMessage()}")
            return made

        logging.setLogRecordFactory(make_and_note)


def _coroutine(record: _Record) -> Coroutine[Any, Any, object]:
    if inspect.iscoroutinefunction(record.job):
        with suppress(TypeError):  # wrong arguments: raised again below, in the task
            return Paced(record.job(record.counter, **record.options))
    return Paced(_call(record))


async def _call(record: _Record) -> object:
    return await record.job(record.counter, **record.options)


def _first_state(job: Job) -> State:
    return State.QUEUED if hasattr(job, "at_most") else State.RUNNING


def _option(parameter: inspect.Parameter, hint: Any) -> Option:
    required = parameter.default is parameter.empty
    choices = tuple(hint) if isinstance(hint, type) and issubclass(hint, Enum) else ()
    if get_origin(hint) is Literal:
        choices = get_args(hint)
    if not choices and hint not in (int, float, str, bool):
        raise TypeError(f"{parameter.name} must be annotated int, float, str, bool, a Literal or an Enum, got {hint!r}")
    default = None if required else parameter.default
    return Option(parameter.name, object if choices else hint, default, required, choices)


def _checked(job: Job, options: Mapping[str, object]) -> Mapping[str, object]:
    """Return the options as the job wants them, or raise ValueError."""
    try:
        known = {option.name: option for option in options_of(job)}
    except (TypeError, ValueError, NameError):  # what cannot be told of it, it is not asked for
        known = {}
    for name in options.keys() - known.keys():
        raise ValueError(f"{name} is no option of this job: it takes {', '.join(known) or 'none'}")
    for name, option in known.items():
        if name not in options and option.required:
            raise ValueError(f"{name} is missing: this job needs to be told")
        if name in options and not _fits(options[name], option):
            wanted = ", ".join(map(str, option.choices)) or option.kind.__name__
            raise ValueError(f"{name} must be {wanted}, got {options[name]!r}")
    return dict(options)


def _fits(value: object, option: Option) -> bool:
    if option.choices:
        return value in option.choices
    if option.kind is float:
        return type(value) in (int, float) and abs(cast(float, value)) <= sys.float_info.max  # NaN is not
    return type(value) is option.kind


def _name_of(job: Job) -> str:
    function = function_of(job)
    name = type(job).__name__ if function.__name__ == "__call__" else function.__name__
    return next((label for label, known in JOBS.items() if known is job), name)


def _edited_at(job: Job) -> float:
    try:
        return os.stat(function_of(job).__code__.co_filename).st_mtime
    except (AttributeError, OSError):
        return 0.0


def _new_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
) -> "asyncio.Task[T]":
    """Make a task, and have the counter whose job asked for it remember it."""
    task = asyncio.Task(coro, loop=loop, **options)
    record = _current.get(None)
    if record is not None:
        if record.children is None:
            record.children = weakref.WeakSet()
        record.children.add(task)
    return task


def _stack(task: "asyncio.Task[Any]") -> list[FrameType]:
    """List the frames of a suspended task, innermost first."""
    frames = []
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is None or frame.f_code is Beat.__await__.__code__:
            break
        frames.append(frame)
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
    return frames[::-1]


def _shown(result: object) -> str:
    try:
        return reprlib.repr(result)
    except Exception:  # of a number with too many digits, for one
        return f"<{type(result).__name__}>"


def _one_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    try:
        text = str(error)
    except Exception:
        text = "<its str() failed>"
    return f"{type(error).__name__}: {text}".split("\n")[0][:LOG_WIDTH].removesuffix(": ")


def _quantile(latenesses: list[tuple[float, int]], q: float) -> float:
    """Take a quantile of sorted (value, how many) pairs; 0 of none."""
    before = 0
    rank = q * sum(n for _, n in latenesses)
    for value, n in latenesses:
        before += n
        if before >= rank:
            return value
    return 0.0


def _pieces(items: Collection[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while piece := list(itertools.islice(rest, PIECE)):
        yield piece


def _check(job: Job, name: str, n: int, interval_s: float, target: int | None, owner: str | None) -> None:
    if not callable(job):
        raise ValueError(f"job must be an async function that takes a Counter, got {job!r}")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"name must not be empty, got {name!r}")
    if len(name) > MAX_NAME:
        raise ValueError(f"name must have at most {MAX_NAME} characters, got {len(name)}")
    for character in name:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise ValueError(f"name must have no control characters or line breaks, got {character!r}")
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a whole number from 1, got {n!r}")
    # Written so that NaN fails: a NaN delay would disturb every timer of the loop.
    if not isinstance(interval_s, (int, float)) or not MIN_INTERVAL_S <= interval_s <= MAX_INTERVAL_S:
        raise ValueError(
            f"interval_s must be from {MIN_INTERVAL_S} to {MAX_INTERVAL_S:.0f} seconds, got {interval_s!r}"
        )
    if target is not None and (not isinstance(target, int) or target < 1):
        raise ValueError(f"target must be a whole number from 1, or nothing for no end, got {target!r}")
    if owner is not None and not owner:
        raise ValueError("owner must not be empty: give None for a counter that is everyone's")
