"""Counters in virtual time, where an hour of beats takes a moment; the board on a real loop; and a storm at the end.

A fake clock never meets a worker thread here: what needs a thread or a process runs in real time.
"""

import asyncio
import contextvars
import functools
import gc
import importlib.util
import itertools
import logging
import math
import os
import random
import threading
import time
import weakref
from collections import Counter as Tally
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import anyio
import looptime
import psutil
import pytest
import pytest_asyncio
from anyio import to_process, to_thread

import tasks
from conftest import wait_until
from loop_runner import LoopRunner
from tasks import (
    ACTIVE,
    ENDED,
    JOBS,
    MANY,
    PIECE,
    Board,
    Counter,
    Job,
    Metronome,
    Paced,
    Row,
    State,
    adopt,
    at_most,
    count,
    count_in_process,
    count_in_thread,
    lifespan,
    release,
    shared_board,
    uncut,
)


def virtual(test: Callable[..., Any]) -> Callable[..., Any]:
    """Run a test in virtual time, twice: at each beat tasks are woken, or the metronome goes past them."""
    for mark in (pytest.mark.usefixtures("each_way"), pytest.mark.looptime(noop_cycles=1)):
        test = mark(test)
    return test


@pytest_asyncio.fixture(params=["by its task", "past its task"])
async def each_way(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    def paced_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        return asyncio.Task(Paced(coro), loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(paced_task if request.param == "past its task" else None)
    yield
    loop.set_task_factory(None)


# Beats, in virtual time


def now() -> float:
    return asyncio.get_running_loop().time()


def stall(seconds: float) -> None:
    """Let the clock of the loop go on while nothing on it can run, as a call that blocks does."""
    loop = cast(looptime.LoopTimeEventLoop, asyncio.get_running_loop())
    loop.setup_looptime(start=loop.time() + seconds, noop_cycles=1)


@asynccontextmanager
async def running(*jobs: Coroutine[Any, Any, None]) -> AsyncIterator[Sequence["asyncio.Task[None]"]]:
    """Run jobs meanwhile, and cancel them in the end."""
    started = [asyncio.create_task(job) for job in jobs]
    yield started
    for task in started:
        task.cancel()
    await asyncio.wait(started)


@virtual
@pytest.mark.parametrize(
    ("interval_s", "beats"), [(0.05, 12_000), (0.333, 10_810), (1.0, 3_600), (7.3, 1_000), (86_400.0, 60)]
)
async def test_beats_come_at_exact_multiples_of_the_interval(interval_s: float, beats: int) -> None:
    await asyncio.sleep(0.123456)
    start = now()
    counter = Counter(interval_s=interval_s)
    for number in range(1, beats + 1):
        assert await counter.beat() == 1
        assert now() == pytest.approx(start + number * interval_s, abs=3e-6)


@virtual
async def test_an_hour_of_counting_is_exact() -> None:
    counter = Counter()
    async with running(count(counter)):
        await asyncio.sleep(3600.5)
        assert counter.value == 3600


@virtual
async def test_after_a_stall_one_wake_up_gives_all_beats_that_came_due() -> None:
    counter = Counter()
    seen: list[tuple[float, int]] = []

    async def job() -> None:
        while True:
            beats = await counter.beat()
            seen.append((now(), beats))

    async with running(job()):
        await asyncio.sleep(2.5)
        stall(5)
        await asyncio.sleep(2)
    assert seen == [(1, 1), (2, 1), (7.5, 5), (8, 1), (9, 1)]


@virtual
async def test_a_stall_of_less_than_an_interval_only_delays_the_beat() -> None:
    counter = Counter()
    await counter.beat()
    await asyncio.sleep(0.75)
    stall(0.5)
    assert (await counter.beat(), now()) == (1, 2.25)
    assert (await counter.beat(), now()) == (1, 3)


@virtual
@pytest.mark.parametrize("seed", range(10))
async def test_whatever_stalls_the_loop_no_beat_is_lost_or_given_twice(seed: int) -> None:
    dice = random.Random(seed)
    counter = Counter(interval_s=dice.choice([0.05, 0.333, 1.0, 2.5]))
    start = now()
    last_at = -1.0

    async def job() -> None:
        nonlocal last_at
        while True:
            counter.add(await counter.beat())
            assert counter.value == math.floor((now() - start + 2e-6) / counter.interval_s)
            assert now() > last_at, "two wake-ups in one moment: a burst"
            last_at = now()
            if dice.random() < 0.2:
                await asyncio.sleep(dice.uniform(0, 3 * counter.interval_s))  # a job that is slow itself

    async with running(job()) as [task]:
        for _ in range(200):
            await asyncio.sleep(dice.uniform(0, 2 * counter.interval_s))
            stall(dice.choice([0, 0, dice.uniform(0, 10 * counter.interval_s)]))
        assert not task.done()


@virtual
async def test_a_job_that_is_slower_than_its_beats_is_given_those_it_missed() -> None:
    counter = Counter()
    assert await counter.beat() == 1
    await asyncio.sleep(2.5)
    assert (await counter.beat(), now()) == (3, 4)


@virtual
async def test_a_counter_ends_at_the_beat_that_reaches_its_target() -> None:
    counter = Counter(target=5, interval_s=0.5)
    assert not counter.finished
    await count(counter)
    assert counter.finished
    assert (counter.value, now()) == (5, 2.5)


def test_a_counter_without_a_target_is_never_finished() -> None:
    counter = Counter()
    counter.add(10**15)
    assert not counter.finished


@virtual
async def test_counters_that_beat_together_share_one_timer() -> None:
    metronome = Metronome()
    counters = [Counter(target=3) for _ in range(500)]
    for counter in counters:
        counter._metronome = metronome
    async with running(*map(count, counters)) as started:
        await asyncio.sleep(0.5)
        [bucket] = metronome._buckets.values()
        assert len(bucket.members) == 500
        await asyncio.wait(started)
    assert [counter.value for counter in counters] == [3] * 500
    for counter in counters:
        assert counter._beat
        metronome.leave(counter._beat)
    assert metronome._buckets == {}
    assert bucket.timer.cancelled(), "a timer is left that nobody needs"


@virtual
async def test_counters_of_many_intervals_and_starts_keep_apart() -> None:
    metronome = Metronome()
    starts = {}

    async def join(counter: Counter) -> None:
        counter._metronome = metronome
        starts[counter] = now()
        await count(counter)

    counters = [Counter(interval_s=interval_s) for interval_s in (0.05, 0.1, 0.333, 1.0, 60.0) for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        joined = []
        for counter in counters:
            joined.append(group.create_task(join(counter)))
            await asyncio.sleep(0.0712)
        await asyncio.sleep(100)
        for counter in counters:
            assert counter.value == math.floor((now() - starts[counter]) / counter.interval_s)
        for task in joined:
            task.cancel()


@virtual
async def test_a_counter_that_joins_a_running_bucket_is_not_given_older_beats() -> None:
    metronome = Metronome()
    first, second = Counter(), Counter()
    first._metronome = second._metronome = metronome
    async with running(count(first)):
        await asyncio.sleep(10.5)
        second._start = 10.0
        assert (await second.beat(), now()) == (1, 11)
        assert len(metronome._buckets) == 1


@virtual
async def test_the_loop_breathes_while_a_burst_is_worked_through() -> None:
    metronome = Metronome()
    order: list[str] = []

    async def job(counter: Counter) -> None:
        await counter.beat()
        if not order:
            asyncio.get_running_loop().call_soon(order.append, "breath")
        order.append("beat")

    counters = [Counter() for _ in range(2 * PIECE + 1)]
    for counter in counters:
        counter._metronome = metronome
    async with running(*map(job, counters)) as started:
        await asyncio.wait(started)
    assert len(order) == 2 * PIECE + 2
    assert order.index("breath") == PIECE


@virtual
async def test_a_beat_that_comes_due_while_a_burst_is_worked_through_is_not_lost() -> None:
    metronome = Metronome()
    counters = [Counter() for _ in range(4 * PIECE)]
    for counter in counters:
        counter._metronome = metronome

    async def slow(counter: Counter) -> None:
        while True:
            counter.add(await counter.beat())
            if counter.value < 3:
                stall(1.25)

    async with running(slow(counters[0]), *map(count, counters[1:])):
        await asyncio.sleep(0.5)
        await asyncio.sleep(10)
        assert {counter.value for counter in counters} == {math.floor(now())}


# Cancel, at each moment


@virtual
async def test_a_job_cancelled_before_its_first_step_never_runs() -> None:
    counter = Counter()
    task = asyncio.create_task(count(counter))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert counter._beat is None


@virtual
async def test_a_job_cancelled_while_it_waits_ends_at_once() -> None:
    counter = Counter()
    async with running(count(counter)) as [task]:
        await asyncio.sleep(2.5)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert (counter.value, now()) == (2, 2.5)


@virtual
async def test_a_job_cancelled_twice_at_once_is_cancelled_once() -> None:
    counter = Counter()
    cancelled = 0

    async def job() -> None:
        nonlocal cancelled
        try:
            await counter.beat()
        except asyncio.CancelledError:
            cancelled += 1
            await asyncio.sleep(1)
            cancelled += 10

    async with running(job()) as [task]:
        await asyncio.sleep(0.5)
        task.cancel()
        task.cancel()
        await asyncio.wait([task])
    assert cancelled == 11


@virtual
@pytest.mark.parametrize("canceller_is_first", [True, False])
async def test_a_job_cancelled_by_another_in_the_same_beat_is_resumed_once(canceller_is_first: bool) -> None:
    metronome = Metronome()
    seen: list[object] = []

    async def cancels(counter: Counter) -> None:
        await counter.beat()
        victims[0].cancel()

    async def is_cancelled(counter: Counter) -> None:
        try:
            while True:
                seen.append(await counter.beat())
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(5)
            seen.append("cleaned up")
            raise

    jobs = [cancels, is_cancelled] if canceller_is_first else [is_cancelled, cancels]
    victims: list[asyncio.Task[None]] = []
    counters = [Counter(), Counter()]
    for counter in counters:
        counter._metronome = metronome
    async with running(*(job(counter) for job, counter in zip(jobs, counters, strict=True))) as started:
        victims.append(started[jobs.index(is_cancelled)])
        await asyncio.wait(started)
        assert victims[0].cancelled()
    assert seen == [*([] if canceller_is_first else [1]), "cancelled", "cleaned up"]


@virtual
async def test_a_clean_up_can_wait_for_beats() -> None:
    counter = Counter()

    async def job() -> None:
        try:
            await count(counter)
        finally:
            counter.add(100 * await counter.beat())
            counter.add(100 * await counter.beat())

    async with running(job()) as [task]:
        await asyncio.sleep(2.5)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert (counter.value, now()) == (202, 4)


@virtual
async def test_a_cancel_cuts_a_clean_up_that_waits_for_a_beat() -> None:
    counter = Counter()

    async def job() -> None:
        try:
            await count(counter)
        finally:
            await counter.beat()
            counter.add(100)

    async with running(job()) as [task]:
        await asyncio.sleep(2.5)
        task.cancel()
        await asyncio.sleep(0.25)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
        assert (counter.value, now()) == (2, 2.75)


@virtual
async def test_a_job_that_swallows_a_cancel_misses_no_beat() -> None:
    counter = Counter()

    async def job() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                counter.add(await counter.beat())
            if counter.finished:
                return

    counter.target = 100
    async with running(job()) as [task]:
        for _ in range(9):
            await asyncio.sleep(10.1)
            task.cancel()
        await asyncio.wait([task])
        assert not task.cancelled()
        assert (counter.value, now()) == (100, 100)


@virtual
async def test_a_cancel_after_the_end_changes_nothing() -> None:
    counter = Counter(target=2)
    async with running(count(counter)) as [task]:
        await asyncio.wait([task])
        assert not task.cancel()
        assert not task.cancelled()
        assert counter.value == 2


@virtual
async def test_a_timeout_around_a_beat_loses_no_beat() -> None:
    counter = Counter()
    for _ in range(4):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await counter.beat()
    assert now() == pytest.approx(0.8)
    async with asyncio.timeout(0.3):
        assert await counter.beat() == 1
    with anyio.move_on_after(2.5) as scope:
        assert await counter.beat() == 1
        await asyncio.sleep(0.5)
        assert await counter.beat() == 1
        await counter.beat()
    assert scope.cancelled_caught
    assert (await counter.beat(), now()) == (1, 4)


@virtual
async def test_waiting_for_a_beat_with_a_deadline_gives_the_beat_or_a_timeout() -> None:
    counter = Counter()
    assert await asyncio.wait_for(counter.beat(), 1.5) == 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(counter.beat(), 0.5)
    assert (await counter.beat(), now()) == (1, 2)


@virtual
async def test_a_beat_can_be_waited_for_with_a_deadline_again_and_again() -> None:
    counter = Counter()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(counter.beat(), 0.3)
    assert (await asyncio.wait_for(counter.beat(), 0.3), now()) == (1, 1)


@virtual
async def test_two_tasks_that_await_the_beat_of_one_counter_are_told_so() -> None:
    counter = Counter()
    async with running(count(counter)):
        await asyncio.sleep(1.5)
        with pytest.raises(RuntimeError, match="another task awaits this counter's beat already: await it in one task"):
            await counter.beat()
        await asyncio.sleep(1)
        assert counter.value == 2, "the one that was first goes on"


@virtual
async def test_a_second_wait_with_a_deadline_for_the_same_beat_says_what_is_wrong() -> None:
    counter = Counter()
    async with running(count(counter)):
        await asyncio.sleep(0.5)
        with pytest.raises(RuntimeError, match="await it in one task only"):
            await asyncio.wait_for(counter.beat(), 5)


# One that fails


@virtual
async def test_a_beat_leaves_a_job_in_its_task_and_in_its_context() -> None:
    counter = Counter()
    number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)
    seen = []

    async def job() -> None:
        for _ in range(5):
            await counter.beat()
            number.set(number.get() + 1)
            seen.append((asyncio.current_task(), number.get()))
            async with asyncio.timeout(0.5):
                await asyncio.sleep(0.1)

    async with running(job()) as [task]:
        await asyncio.sleep(10)
        assert seen == [(task, number) for number in range(1, 6)]
        assert number.get() == 0


@virtual
@pytest.mark.parametrize("awaits", ["its beat", "another task", "nothing"])
async def test_a_job_that_cancels_itself_after_a_beat_is_cancelled_at_once(awaits: str) -> None:
    counter = Counter()
    other = asyncio.create_task(asyncio.sleep(100))

    async def job() -> None:
        await counter.beat()
        await counter.beat()
        cast("asyncio.Task[Any]", asyncio.current_task()).cancel()
        if awaits == "its beat":
            await counter.beat()
        elif awaits == "another task":
            await other

    task = asyncio.create_task(job())
    await asyncio.wait([task])
    assert now() == 2
    assert task.cancelled()
    assert other.cancelled() == (awaits == "another task")
    other.cancel()


@virtual
async def test_of_beats_in_a_row_only_the_first_wakes_the_task() -> None:
    class Watched(Paced[None]):
        steps = 0

        def send(self, value: Any) -> Any:
            Watched.steps += 1
            return super().send(value)

    counter = Counter(target=1_000)
    await asyncio.Task(Watched(count(counter)))
    assert (now(), counter.value) == (1_000, 1_000)
    assert Watched.steps == 2  # the first, and the last


@virtual
async def test_a_member_that_fails_in_a_beat_does_not_cost_the_others_theirs() -> None:
    metronome = Metronome()
    counters = [Counter() for _ in range(3)]
    for counter in counters:
        counter._metronome = metronome

    async def fail() -> None:
        await counters[1].beat()
        raise LookupError("in a beat")

    async with running(count(counters[0]), fail(), count(counters[2])) as started:
        await asyncio.sleep(2.5)
        assert isinstance(started[1].exception(), LookupError)
        assert [counter.value for counter in counters] == [2, 0, 2]


@pytest.mark.parametrize("others", [1, PIECE])
def test_a_member_that_exits_in_a_beat_does_not_cost_the_others_theirs(others: int) -> None:
    """SystemExit ends the loop in the middle of a burst; here it is run again, as a runner does."""
    loop = looptime.new_event_loop()
    metronome = Metronome()
    counters = [Counter() for _ in range(2 * others + 1)]
    for counter in counters:
        counter._metronome = metronome

    async def leave() -> None:
        await counters[others].beat()
        raise SystemExit

    async def main() -> None:
        jobs = [*map(count, counters[:others]), leave(), *map(count, counters[others + 1 :])]
        async with running(*jobs) as started:
            await asyncio.sleep(1.5)
            assert isinstance(started[others].exception(), SystemExit)
            assert {counter.value for counter in (*counters[:others], *counters[others + 1 :])} == {1}
            await asyncio.sleep(2)
            assert {counter.value for counter in (*counters[:others], *counters[others + 1 :])} == {3}

    root = loop.create_task(main())
    with pytest.raises(SystemExit):
        loop.run_until_complete(root)
    loop.run_until_complete(root)
    loop.close()


# Logs


def test_a_log_keeps_the_last_lines_and_no_long_ones() -> None:
    counter = Counter()
    for number in range(1_000_000):
        counter.log(f"line {number}")
    counter.log("x" * 1_000_000)
    assert counter._lines is not None
    texts = [text for _, text in counter._lines]
    assert texts[:-1] == [f"line {number}" for number in range(999_901, 1_000_000)]
    assert texts[-1] == "x" * 500


# Additions in a thread, in real time


class SlowToAdd(int):
    """A value whose addition ends when it is let, so that a test can act in the middle of it."""

    def __new__(cls) -> "SlowToAdd":
        value = super().__new__(cls)
        value.began, value.may_end = threading.Event(), threading.Event()
        return value

    began: threading.Event
    may_end: threading.Event

    def __add__(self, other: int) -> int:
        self.began.set()
        assert self.may_end.wait(20)
        return int(self) + other


async def test_counting_in_a_thread_reaches_the_target() -> None:
    counter = Counter(interval_s=0.05, target=4)
    await count_in_thread(counter)
    assert counter.value >= 4


async def test_an_addition_in_a_thread_is_not_cut_by_a_cancel() -> None:
    value = SlowToAdd()
    counter = Counter(interval_s=0.05)
    counter.value = value
    async with running(count_in_thread(counter)) as [task]:
        assert await asyncio.to_thread(value.began.wait, 20)
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done(), "the job ended before its addition"
        value.may_end.set()
        await asyncio.wait([task])
        assert task.cancelled()
        assert counter.value is value


async def test_a_call_that_is_not_to_be_cut_gives_its_result_or_its_error() -> None:
    assert await uncut(to_thread.run_sync(max, 1, 2)) == 2
    with pytest.raises(ZeroDivisionError):
        await uncut(to_thread.run_sync(divmod, 1, 0))


async def test_the_error_of_a_call_that_outlives_a_cancel_is_not_reported_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    async def call() -> None:
        began.set()
        await may_end.wait()
        raise LookupError("too late")

    async with running(uncut(call())) as [task]:
        await began.wait()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        may_end.set()
        await asyncio.wait([task])
        assert task.cancelled()
    assert caplog.text == ""


# The board, on a real loop


def state_of(board: Board, id: int) -> State:
    return board.detail(id).row.state


def states(board: Board) -> dict[State, int]:
    """Count the counters in each state, leaving out the zeros."""
    return {state: n for state, n in board.totals().states.items() if n}


def row(board: Board, id: int) -> Row:
    return board.detail(id).row


def texts(board: Board, id: int) -> list[str]:
    return [text for _, text in board.detail(id).log]


def is_in(board: Board, state: State, id: int) -> bool:
    return state_of(board, id) == state


def wait_for(board: Board, state: State, ids: Iterable[int]) -> None:
    for id in ids:
        wait_until(functools.partial(is_in, board, state, id))


def goes_on(board: Board, id: int) -> bool:
    """Wait until a counter has counted on."""
    before = row(board, id).value
    wait_until(lambda: row(board, id).value > before)
    return True


async def wait_for_ever(counter: Counter) -> None:
    await asyncio.Event().wait()


class CleansUp:
    """A job that counts, and whose clean-up ends when it is let."""

    def __init__(self) -> None:
        self.began, self.cleaning, self.may_end = threading.Event(), threading.Event(), threading.Event()
        self.cleaned = 0

    async def job(self, counter: Counter) -> None:
        try:
            self.began.set()
            await count(counter)
        finally:
            self.cleaning.set()
            await asyncio.to_thread(self.may_end.wait, 60)
            self.cleaned += 1


@contextmanager
def blocked_loop(board: Board) -> Iterator[Callable[[], bool]]:
    """Have a counter block the loop meanwhile; gives what tells whether it still does."""
    held, release, free = threading.Event(), threading.Event(), threading.Event()

    async def block(counter: Counter) -> None:
        held.set()
        release.wait(60)
        free.set()

    board.start(block, name="blocks the loop")
    assert held.wait(20)
    yield lambda: not free.is_set()
    release.set()
    assert free.wait(20)


# States


def test_a_started_counter_runs_and_counts(board: Board) -> None:
    [id] = board.start(count, name="apples", interval_s=0.05)
    found = row(board, id)
    assert (found.id, found.name, found.job, found.state) == (1, "apples", "On the loop", State.RUNNING)
    assert (found.target, found.interval_s, found.private) == (None, 0.05, False)
    assert (found.ended_at, found.error, found.where) == (None, None, None)
    assert goes_on(board, id)
    assert states(board) == {State.RUNNING: 1}
    assert texts(board, id) == ["started"]


def test_a_counter_is_stopping_until_its_clean_up_has_ended(board: Board) -> None:
    cleans_up = CleansUp()
    [id] = board.start(cleans_up.job, name="x", interval_s=0.05)
    assert goes_on(board, id)
    board.stop([id])
    assert state_of(board, id) == State.STOPPING
    assert cleans_up.cleaning.wait(20)
    assert states(board) == {State.STOPPING: 1}
    assert row(board, id).ended_at is None
    cleans_up.may_end.set()
    wait_for(board, State.STOPPED, [id])
    assert cleans_up.cleaned == 1
    assert states(board) == {State.STOPPED: 1}
    assert row(board, id).ended_at is not None
    assert row(board, id).error is None


def test_a_stopped_counter_keeps_its_last_value(board: Board) -> None:
    [id, other] = board.start(count, name="x", n=2, interval_s=0.05)
    assert goes_on(board, id)
    board.stop([id])
    wait_for(board, State.STOPPED, [id])
    value = row(board, id).value
    assert value > 0
    assert goes_on(board, other)
    assert row(board, id).value == value


def test_a_second_stop_does_not_disturb_a_clean_up(board: Board) -> None:
    cleans_up = CleansUp()
    [id] = board.start(cleans_up.job, name="x")
    assert cleans_up.began.wait(20)
    board.stop([id])
    assert cleans_up.cleaning.wait(20)
    board.stop([id, id])
    board.stop(board.start(count, name="its stop comes after the one before"))
    wait_for(board, State.STOPPED, [id + 1])
    assert state_of(board, id) == State.STOPPING
    cleans_up.may_end.set()
    wait_for(board, State.STOPPED, [id])
    assert cleans_up.cleaned == 1


def test_a_counter_that_does_not_stop_is_stuck_and_the_line_is_named(
    runner: LoopRunner, caplog: pytest.LogCaptureFixture
) -> None:
    board = Board(runner, stop_timeout_s=0.1)
    cleans_up = CleansUp()
    [id] = board.start(cleans_up.job, name="x")
    assert cleans_up.began.wait(20)
    board.stop([id])
    wait_for(board, State.STUCK, [id])
    where = f"test_tasks.py:{CleansUp.job.__code__.co_firstlineno + 6} in job"
    assert row(board, id).where == where
    assert f"does not stop: it stands at {where}" in texts(board, id)
    assert states(board) == {State.STUCK: 1}
    assert "counter 1 (x) does not stop" in caplog.text
    cleans_up.may_end.set()
    wait_for(board, State.STOPPED, [id])
    assert row(board, id).where is None
    assert cleans_up.cleaned == 1


def test_a_counter_stuck_at_its_beat_shows_the_line_of_its_job(runner: LoopRunner) -> None:
    board = Board(runner, stop_timeout_s=0.1)
    over = threading.Event()

    async def deaf(counter: Counter) -> None:
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await counter.beat()

    [id] = board.start(deaf, name="x", interval_s=1)
    wait_until(lambda: board._records[id].counter._beat)
    board.stop([id])
    wait_for(board, State.STUCK, [id])
    where = row(board, id).where
    over.set()
    wait_for(board, State.STOPPED, [id])
    assert where == f"test_tasks.py:{deaf.__code__.co_firstlineno + 3} in deaf"


def test_a_stuck_counter_that_is_stopped_again_is_asked_again(runner: LoopRunner) -> None:
    board = Board(runner, stop_timeout_s=0.1)

    async def swallow_once(counter: Counter) -> None:
        with suppress(asyncio.CancelledError):
            await count(counter)
        await asyncio.Event().wait()

    [id] = board.start(swallow_once, name="x", interval_s=0.05)
    assert goes_on(board, id)
    board.stop([id])
    wait_for(board, State.STUCK, [id])
    board.stop([id])
    wait_for(board, State.STOPPED, [id])


def test_a_counter_that_blocks_the_loop_shows_as_stuck_all_the_same(runner: LoopRunner) -> None:
    board = Board(runner, stop_timeout_s=0.1)
    with blocked_loop(board) as is_blocked:
        board.stop([1])
        wait_for(board, State.STUCK, [1])
        assert (row(board, 1).where or "").endswith(" in block")
        assert is_blocked()
    wait_for(board, State.STOPPED, [1])


def test_a_counter_that_ends_by_itself_is_done(board: Board) -> None:
    [id] = board.start(count, name="x", interval_s=0.05, target=3)
    wait_for(board, State.DONE, [id])
    found = row(board, id)
    assert found.value >= 3
    assert found.target == 3
    assert found.ended_at is not None
    assert found.ended_at >= found.started_at
    assert texts(board, id) == ["started", f"done at {found.value}"]
    assert states(board) == {State.DONE: 1}


def test_a_stop_that_comes_after_the_target_was_reached_leaves_the_counter_done(board: Board) -> None:
    began = threading.Event()

    async def linger(counter: Counter) -> None:
        counter.add(5)
        began.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    ids = [*board.start(linger, name="reached", target=5), *board.start(linger, name="not reached", target=6)]
    wait_until(lambda: all(row(board, id).value == 5 for id in ids))
    board.stop(ids)
    wait_for(board, State.DONE, ids[:1])
    wait_for(board, State.STOPPED, ids[1:])


async def raises_an_error(counter: Counter) -> None:
    await counter.beat()
    raise LookupError("no such thing\nand a second line")


async def exits(counter: Counter) -> None:
    await counter.beat()
    raise SystemExit(3)


async def presses_ctrl_c(counter: Counter) -> None:
    raise KeyboardInterrupt


async def raises_a_group(counter: Counter) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(raises_an_error(counter))


async def raises_several(counter: Counter) -> None:
    raise ExceptionGroup("two at once", [ValueError("one"), TypeError("two")])


async def fails_in_clean_up(counter: Counter) -> None:
    try:
        raise ValueError("first")
    finally:
        raise OSError("in clean-up")


async def takes_nothing() -> None: ...


def is_no_coroutine(counter: Counter) -> None: ...


@pytest.mark.parametrize(
    ("job", "error", "in_traceback"),
    [
        (raises_an_error, "LookupError: no such thing", 'raise LookupError("no such thing'),
        (exits, "SystemExit: 3", "raise SystemExit(3)"),
        (presses_ctrl_c, "KeyboardInterrupt", "raise KeyboardInterrupt"),
        (raises_a_group, "LookupError: no such thing", "in raises_a_group"),
        (raises_several, "ExceptionGroup: two at once (2 sub-exceptions)", "TypeError: two"),
        (fails_in_clean_up, "OSError: in clean-up", 'raise ValueError("first")'),
        (takes_nothing, "TypeError: takes_nothing() takes 0 positional arguments but 1 was given", "in _call"),
        (is_no_coroutine, "TypeError: object NoneType can't be used in 'await' expression", "in _call"),
    ],
)
def test_a_counter_that_raises_has_failed_and_harms_no_other(
    board: Board, caplog: pytest.LogCaptureFixture, job: Job, error: str, in_traceback: str
) -> None:
    [other] = board.start(count, name="other", interval_s=0.05)
    [id] = board.start(job, name="fails", interval_s=0.05)
    wait_for(board, State.FAILED, [id])
    found = board.detail(id)
    assert found.row.error == error
    assert found.row.ended_at is not None
    assert found.traceback is not None
    assert in_traceback in found.traceback
    assert "counter 2 (fails) failed" in caplog.text
    assert in_traceback in caplog.text
    assert goes_on(board, other)
    assert states(board) == {State.RUNNING: 1, State.FAILED: 1}


def test_a_counter_whose_clean_up_raises_after_a_stop_has_failed(board: Board) -> None:
    async def job(counter: Counter) -> None:
        try:
            await count(counter)
        finally:
            await asyncio.sleep(0.01)
            raise OSError("in clean-up")

    [id] = board.start(job, name="x", interval_s=0.05)
    assert goes_on(board, id)
    board.stop([id])
    wait_for(board, State.FAILED, [id])
    assert row(board, id).error == "OSError: in clean-up"
    assert "CancelledError" in (board.detail(id).traceback or "")


def test_a_counter_whose_error_cannot_be_shown_has_failed(board: Board) -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    async def job(counter: Counter) -> None:
        raise Unspeakable

    [id] = board.start(job, name="x")
    wait_until(lambda: state_of(board, id) == State.FAILED, 5)
    assert "Unspeakable" in (row(board, id).error or "")


def test_a_huge_traceback_is_cut(board: Board) -> None:
    async def job(counter: Counter) -> None:
        raise ValueError("x" * 1_000_000)

    [id] = board.start(job, name="x")
    wait_for(board, State.FAILED, [id])
    assert len(row(board, id).error or "") == 500
    assert len(board.detail(id).traceback or "") <= 50_000


def test_child_tasks_left_behind_are_cancelled_and_named(board: Board) -> None:
    cancelled = threading.Event()

    async def child() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def parent(counter: Counter) -> None:
        asyncio.create_task(child(), name="the child").add_done_callback(kept.discard)
        kept.update(asyncio.all_tasks())
        await counter.beat()

    kept: set[asyncio.Task[Any]] = set()
    [id, other] = [*board.start(parent, name="x", interval_s=0.05), *board.start(count, name="y", interval_s=0.05)]
    wait_for(board, State.DONE, [id])
    assert cancelled.wait(20)
    assert "left a task behind, which is cancelled: the child" in texts(board, id)
    assert texts(board, other) == ["started"]
    assert goes_on(board, other)
    kept.clear()


def test_a_child_task_that_ended_is_not_mentioned(board: Board) -> None:
    async def parent(counter: Counter) -> None:
        await asyncio.create_task(asyncio.sleep(0))
        await asyncio.gather(asyncio.sleep(0), asyncio.to_thread(time.sleep, 0), to_thread.run_sync(time.sleep, 0))

    [id] = board.start(parent, name="x")
    wait_for(board, State.DONE, [id])
    assert texts(board, id) == ["started", "done at 0"]


def test_a_job_does_not_run_in_the_context_of_who_started_it(board: Board) -> None:
    """It would keep alive, for as long as it runs, whatever a web page has in its context."""
    page: contextvars.ContextVar[str] = contextvars.ContextVar("page", default="none")
    page.set("of a visitor")
    seen = []

    async def job(counter: Counter) -> None:
        seen.append(page.get())

    wait_for(board, State.DONE, board.start(job, name="x"))
    assert seen == ["none"]


# Threads and processes


def test_counting_in_a_thread_works_for_many(board: Board) -> None:
    ids = board.start(count_in_thread, name="x", n=50, interval_s=0.05, target=3)
    wait_for(board, State.DONE, ids)
    assert all(row(board, id).value >= 3 for id in ids)
    assert row(board, ids[0]).job == "In a thread"


def workers() -> list[psutil.Process]:
    return [process for process in psutil.Process().children() if process.status() != psutil.STATUS_ZOMBIE]


def test_counters_in_processes_share_a_few_workers(board: Board) -> None:
    ids = board.start(count_in_process, name="x", n=12, interval_s=0.05)
    seen = 0

    def all_have_counted() -> bool:
        nonlocal seen
        seen = max(seen, len(workers()))
        return all(row(board, id).value >= 3 for id in ids)

    wait_until(all_have_counted, 60)
    assert states(board) == {State.RUNNING: 12}
    assert row(board, ids[0]).job == "In a process"
    assert 1 <= seen <= (os.cpu_count() or 2)


def test_a_killed_worker_process_fails_its_counter_and_harms_no_other(board: Board) -> None:
    [other] = board.start(count, name="other", interval_s=0.05)
    [id] = board.start(count_in_process, name="x", interval_s=0.05)
    wait_until(lambda: row(board, id).value > 0, 60)
    [worker] = workers()
    worker.suspend()
    wait_until(lambda: worker.status() == psutil.STATUS_STOPPED)
    stands_at = row(board, id).value
    for _ in range(5):  # beats of the one that is not stopped: by then the other has asked the worker for an addition
        assert goes_on(board, other)
        if row(board, id).value != stands_at:
            stands_at = row(board, id).value
    worker.kill()
    wait_for(board, State.FAILED, [id])
    assert row(board, id).error == "RuntimeError: the worker process ended in the middle of an addition: was it killed?"
    assert "BrokenWorkerProcess" in (board.detail(id).traceback or "")
    assert goes_on(board, other)
    [next_one] = board.start(count_in_process, name="next", interval_s=0.05, target=2)
    wait_until(lambda: state_of(board, next_one) == State.DONE, 60)


def test_a_worker_process_serves_on_when_its_first_user_has_ended(board: Board) -> None:
    [first] = board.start(count_in_process, name="first", interval_s=0.05)
    wait_until(lambda: row(board, first).value > 0, 60)
    [second] = board.start(count_in_process, name="second", interval_s=0.05)
    wait_until(lambda: row(board, second).value > 0, 60)
    board.stop([first])
    wait_for(board, State.STOPPED, [first])
    assert texts(board, first)[-1].startswith("stopped at")
    assert not any("left a task behind" in text for text in texts(board, first))
    assert goes_on(board, second)


def test_a_stop_does_not_kill_the_worker_process(board: Board) -> None:
    began = threading.Event()

    async def job(counter: Counter) -> None:
        began.set()
        await uncut(to_process.run_sync(time.sleep, 0.2))

    [id] = board.start(count_in_process, name="first", interval_s=0.05, target=1)
    wait_until(lambda: state_of(board, id) == State.DONE, 60)
    before = workers()
    [id] = board.start(job, name="x")
    assert began.wait(20)
    board.stop([id])
    wait_for(board, State.STOPPED, [id])
    assert workers() == before
    [id] = board.start(count_in_process, name="next", interval_s=0.05, target=1)
    wait_until(lambda: state_of(board, id) == State.DONE, 60)
    assert workers() == before


# Many at once


def test_one_counter_keeps_the_name_and_several_are_numbered(board: Board) -> None:
    assert board.start(wait_for_ever, name="pear") == range(1, 2)
    ids = board.start(wait_for_ever, name="apple", n=3)
    assert list(ids) == [2, 3, 4]
    assert [row(board, id).name for id in (1, *ids)] == ["pear", "apple 1", "apple 2", "apple 3"]


def test_the_first_beats_of_many_are_spread_over_one_interval(board: Board) -> None:
    seen: list[Counter] = []

    async def job(counter: Counter) -> None:
        seen.append(counter)
        await counter.beat()

    ids = board.start(job, name="x", n=10)
    wait_for(board, State.DONE, ids)
    starts = [counter._start for counter in sorted(seen, key=lambda counter: counter.id) if counter._start is not None]
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert gaps == pytest.approx([0.1] * 9, abs=0.006)


class Circle:
    """Garbage that only the garbage collector frees."""

    def __init__(self) -> None:
        self.itself = self


def test_the_garbage_collector_is_spared_many_counters_but_for_once_an_hour(board: Board) -> None:
    board.start(count, name="x", n=MANY, interval_s=60)
    wait_until(lambda: gc.get_freeze_count() > MANY, 30)
    assert gc.isenabled()
    frozen_at = board._frozen_at
    assert frozen_at is not None
    gc.unfreeze()
    circle = Circle()
    gone = weakref.ref(circle)
    gc.freeze()
    del circle
    gc.collect()
    assert gone() is not None
    board._frozen_at = frozen_at - 3_600  # an hour later
    wait_until(lambda: gone() is None and gc.get_freeze_count() > MANY, 30)
    board.runner.close()
    assert gc.get_freeze_count() == 0


def test_a_stall_at_the_start_costs_no_beat(board: Board) -> None:
    async def job(counter: Counter) -> None:
        if counter.name == "x 1":
            threading.Event().wait(0.5)
        counter.add(await counter.beat())

    ids = board.start(job, name="x", n=2, interval_s=0.05)
    wait_for(board, State.DONE, ids)
    assert min(row(board, id).value for id in ids) >= 10


def test_counters_of_a_bulk_share_their_timers(board: Board) -> None:
    ids = board.start(count, name="x", n=1_000, interval_s=0.05)
    wait_until(lambda: all(found.value > 0 for found in board.page(limit=1_000).rows))
    buckets = board._metronome._buckets
    assert len(buckets) <= 11, "one for each 5 ms of the interval"
    board.stop(ids)
    wait_until(lambda: states(board) == {State.STOPPED: 1_000})
    assert buckets == {}


def test_many_are_stopped_restarted_and_removed_even_before_they_were_made(board: Board) -> None:
    n = 3 * PIECE + 500
    with blocked_loop(board) as is_blocked:
        ids = board.start(count, name="x", n=n, interval_s=0.05)
        assert states(board) == {State.RUNNING: n + 1}
        assert board.page().matched == n + 1
        assert len(board._records) < n, "they are all made: this test tests nothing"
        board.stop(ids)
        assert states(board) == {State.RUNNING: 1, State.STOPPING: n}
        assert row(board, ids[-1]).state == State.STOPPING
        board.restart(ids)
        board.remove(ids)
        assert states(board) == {State.RUNNING: 1, State.STOPPING: n}, "they have not ended yet"
        assert is_blocked()
    wait_until(lambda: states(board) == {State.DONE: 1, State.STOPPED: n})
    assert all(found.value == 0 for found in board.page(limit=n + 1).rows)
    board.restart(ids)
    assert states(board) == {State.DONE: 1, State.RUNNING: n}
    wait_until(lambda: all(found.value > 0 for found in board.page(limit=n, match="x ").rows))
    board.stop(ids)
    wait_until(lambda: states(board) == {State.DONE: 1, State.STOPPED: n})
    board.remove([1, *ids])
    assert states(board) == {}
    assert board.page() == tasks.Page((), 0, dict.fromkeys(State, 0))


def test_rows_of_a_huge_start_can_be_read_before_they_were_made(board: Board) -> None:
    n = 2 * PIECE + 1
    with blocked_loop(board):
        ids = board.start(wait_for_ever, name="x", n=n)
        assert row(board, ids[-1]).name == f"x {n}"
        assert len(board.ids(match="X ")) == n
        more = board.start(wait_for_ever, name="y", n=n)
        assert list(board.ids()) == [1, *ids, *more]
    wait_until(lambda: states(board) == {State.DONE: 1, State.RUNNING: 2 * n})


def test_a_counter_stopped_before_it_began_never_runs(board: Board) -> None:
    began = threading.Event()

    async def job(counter: Counter) -> None:
        began.set()

    with blocked_loop(board):
        ids = board.start(job, name="x", n=3)
        board.stop(ids)
    wait_for(board, State.STOPPED, ids)
    assert not began.is_set()
    board.restart(ids)
    wait_for(board, State.DONE, ids)
    assert began.is_set()


def test_a_restarted_counter_starts_from_zero(board: Board) -> None:
    fail = True

    async def job(counter: Counter) -> None:
        if fail:
            counter.add(7)
            counter.log("about to fail")
            raise LookupError("no such thing")
        await asyncio.Event().wait()

    [id] = board.start(job, name="x", interval_s=0.5, target=9, owner="me")
    wait_for(board, State.FAILED, [id])
    before = row(board, id)
    fail = False
    board.restart([id, id])
    after = board.detail(id)
    assert after.row.state == State.RUNNING
    assert after.row.started_at >= (before.ended_at or 0)
    assert (after.row.value, after.row.error, after.traceback, after.row.ended_at) == (0, None, None, None)
    assert [text for _, text in after.log] == ["started"]
    assert (after.row.name, after.row.job, after.row.interval_s, after.row.target) == ("x", "job", 0.5, 9)
    assert after.row.private
    assert states(board) == {State.RUNNING: 1}


def test_commands_leave_counters_alone_that_they_do_not_fit(board: Board) -> None:
    [running] = board.start(count, name="running", interval_s=0.05)
    [done] = board.start(count, name="done", interval_s=0.05, target=1)
    wait_for(board, State.DONE, [done])
    started_at = row(board, running).started_at
    board.restart([running])
    board.remove([running])
    assert row(board, running).started_at == started_at
    assert goes_on(board, running)
    board.stop([done])
    assert state_of(board, done) == State.DONE
    board.remove([done])
    board.stop([done])
    board.restart([done])
    board.remove([done])
    assert states(board) == {State.RUNNING: 1}


def test_a_restarted_counter_runs_the_code_that_its_job_has_now(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    [id] = board.start(count, name="x", interval_s=0.05, target=1)
    wait_for(board, State.DONE, [id])

    async def edited(counter: Counter) -> None:
        counter.add(100)

    monkeypatch.setitem(JOBS, "On the loop", edited)
    board.restart([id])
    wait_for(board, State.DONE, [id])
    assert row(board, id).value == 100


def test_a_job_can_be_anything_that_is_called_with_a_counter(board: Board) -> None:
    async def add(n: int, counter: Counter) -> None:
        counter.add(n)

    class Adds:
        async def __call__(self, counter: Counter) -> None:
            counter.add(4)

    def gives_an_awaitable(counter: Counter) -> Awaitable[None]:
        return add(5, counter)

    jobs: list[Job] = [functools.partial(add, 3), Adds(), gives_an_awaitable]
    ids = [board.start(job, name="x")[0] for job in jobs]
    wait_for(board, State.DONE, ids)
    assert [row(board, id).value for id in ids] == [3, 4, 5]
    assert [row(board, id).job for id in ids] == ["add", "Adds", "gives_an_awaitable"]


def test_the_oldest_ended_counters_are_forgotten(runner: LoopRunner) -> None:
    board = Board(runner, max_ended=3)
    [running] = board.start(wait_for_ever, name="running")
    for number in range(5):
        wait_for(board, State.DONE, board.start(count, name=f"{number}", interval_s=0.05, target=1))
    assert [found.name for found in board.page().rows] == ["running", "2", "3", "4"]
    assert states(board) == {State.RUNNING: 1, State.DONE: 3}
    with pytest.raises(KeyError, match="was removed"):
        board.detail(running + 1)


def test_a_job_can_start_another_counter_and_end(board: Board) -> None:
    async def job(counter: Counter) -> None:
        board.start(count, name="next", interval_s=0.05, target=1)

    [id] = board.start(job, name="first")
    wait_for(board, State.DONE, [id])
    wait_until(lambda: states(board) == {State.DONE: 2}, 5)
    assert texts(board, id) == ["started", "done at 0"]


def test_a_job_can_stop_another_counter_and_end(board: Board) -> None:
    [other] = board.start(count, name="other")

    async def job(counter: Counter) -> None:
        board.stop([other])

    board.start(job, name="first")
    wait_until(lambda: state_of(board, other) == State.STOPPED, 5)


def test_a_queued_counter_that_is_restarted_before_it_began_runs_once(board: Board) -> None:
    runs: list[int] = []

    async def job(counter: Counter) -> None:
        runs.append(counter.id)
        await counter.beat()

    with blocked_loop(board):
        ids = board.start(at_most(5, job), name="x", n=2, interval_s=0.05)
        board.stop(ids)
        board.restart(ids)
    wait_for(board, State.DONE, ids)
    board.start(at_most(1, job), name="y", interval_s=0.05)
    wait_until(lambda: states(board) == {State.DONE: 4})
    assert runs == [2, 3, 4]


# What a page reads


def names(board: Board, **options: Any) -> list[str]:
    return [found.name for found in board.page(**options).rows]


def test_a_page_is_the_rows_from_an_offset_on(board: Board) -> None:
    board.start(wait_for_ever, name="x", n=7)
    assert names(board, limit=3) == ["x 1", "x 2", "x 3"]
    assert names(board, offset=5, limit=3) == ["x 6", "x 7"]
    assert names(board, offset=7) == []
    assert names(board, limit=0) == []
    assert board.page(limit=0).matched == 7
    assert names(board, offset=5, limit=3, match="x") == ["x 6", "x 7"]
    board.start(wait_for_ever, name="y", n=50)
    assert len(names(board)) == 50


def test_a_page_shows_the_names_that_match_whatever_their_case(board: Board) -> None:
    board.start(wait_for_ever, name="Große Äpfel")
    board.start(wait_for_ever, name="pears (1)", n=2)
    assert names(board, match="GROSSE ä") == ["Große Äpfel"]
    assert names(board, match="(1) 2") == ["pears (1) 2"]
    assert names(board, match="e") == ["Große Äpfel", "pears (1) 1", "pears (1) 2"]
    assert names(board, match=".*") == []
    found = board.page(match="pears", limit=1)
    assert (len(found.rows), found.matched, found.states[State.RUNNING]) == (1, 2, 3)


def test_a_page_shows_the_states_that_are_asked_for(board: Board) -> None:
    board.start(wait_for_ever, name="a runs")
    ids = board.start(count, name="b ends", n=2, interval_s=0.05, target=1)
    wait_for(board, State.DONE, ids)
    assert names(board, states=[State.RUNNING]) == ["a runs"]
    assert names(board, states=["done"]) == ["b ends 1", "b ends 2"]
    assert names(board, states=ACTIVE) == ["a runs"]
    assert names(board, states=ENDED, match="2") == ["b ends 2"]
    assert names(board, states=["stuck"]) == []
    board.restart(ids[:1])
    wait_until(lambda: names(board, states=["done"]) == ["b ends 1", "b ends 2"])
    board.remove(ids[:1])
    assert names(board, states=["done"]) == ["b ends 2"]
    assert list(board.ids(states=["done"])) == [ids[1]]


def test_private_counters_are_shown_to_their_owner_alone_and_first(board: Board) -> None:
    board.start(wait_for_ever, name="everyone's")
    board.start(wait_for_ever, name="mine's", owner="me", n=2)
    board.start(wait_for_ever, name="yours", owner="you")
    for match in ("", "S"):
        assert names(board, match=match) == ["everyone's"]
        assert names(board, match=match, owner="nobody") == ["everyone's"]
        assert names(board, match=match, owner="me") == ["mine's 1", "mine's 2", "everyone's"]
        assert names(board, match=match, owner="you") == ["yours", "everyone's"]
    assert [found.private for found in board.page(owner="you").rows] == [True, False]
    assert board.page(owner="me").matched == 3
    assert board.page(owner="me").states[State.RUNNING] == 3
    assert board.page().states[State.RUNNING] == 1
    assert states(board) == {State.RUNNING: 4}
    assert list(board.ids(owner="me")) == [2, 3, 1]
    assert list(board.ids()) == [1]


def test_readers_of_the_same_rows_share_what_was_read_lately(board: Board) -> None:
    board.start(wait_for_ever, name="x", n=3)
    board.start(wait_for_ever, name="mine", owner="me")
    shown = board.page(max_age_s=60)
    assert board.page(max_age_s=60) is shown
    assert board.page(owner="nobody", max_age_s=60) is shown
    assert board.page() == shown
    assert board.page() is not shown, "shared with one who did not accept old values"
    other: list[dict[str, Any]] = [{"owner": "me"}, {"offset": 1}, {"limit": 2}, {"match": "3"}, {"states": ["done"]}]
    for options in other:
        assert board.page(**options, max_age_s=60) == board.page(**options) != shown
    for offset in range(40):
        board.page(offset=offset, max_age_s=60)
    assert len(board._pages) <= 16, "they pile up"


def test_values_on_a_shared_page_are_no_older_than_is_accepted(board: Board) -> None:
    board.start(count, name="x", interval_s=0.05)
    shown = board.page(max_age_s=60)
    wait_until(lambda: board.page().rows[0].value > shown.rows[0].value)
    assert board.page(max_age_s=60) is shown
    time.sleep(0.02)
    assert board.page(max_age_s=0.01).rows[0].value > shown.rows[0].value


def test_what_a_command_did_shows_on_the_next_shared_page(board: Board) -> None:
    def shows() -> list[tuple[int, State]]:
        assert board.page(max_age_s=60) == board.page()
        return [(found.id, found.state) for found in board.page(max_age_s=60).rows]

    assert shows() == []
    [id] = board.start(wait_for_ever, name="x")
    assert shows() == [(id, State.RUNNING)]
    board.stop([id])
    assert shows()[0][1] in (State.STOPPING, State.STOPPED)
    wait_until(lambda: shows() == [(id, State.STOPPED)])
    board.restart([id])
    assert shows() == [(id, State.RUNNING)]
    board.stop([id])
    wait_until(lambda: shows() == [(id, State.STOPPED)])
    board.remove([id])
    assert shows() == []


def test_a_counter_that_becomes_private_during_a_read_is_not_shared(board: Board) -> None:
    class Meanwhile(dict[Any, Any]):
        def get(self, *args: Any) -> Any:
            if owners:
                board.start(wait_for_ever, name="mine", owner=owners.pop())
            return super().get(*args)

    owners = ["me"]
    board.start(wait_for_ever, name="everyone's")
    board._pages = Meanwhile()
    board.page(owner="me", max_age_s=60)
    assert names(board, max_age_s=60) == ["everyone's"]
    assert names(board, owner="me", max_age_s=60) == ["mine", "everyone's"]


def test_of_readers_who_share_one_reads_for_all(runner: LoopRunner) -> None:
    class SlowReader(Board):
        def _row(self, record: Any, edits: Any) -> Row:
            read.append(record)
            time.sleep(0.05)
            return super()._row(record, edits)

    read: list[object] = []
    board = SlowReader(runner)
    board.start(wait_for_ever, name="x")
    with ThreadPoolExecutor(8) as pool:
        pages = [future.result() for future in [pool.submit(board.page, max_age_s=60) for _ in range(8)]]
    assert len(read) == 1
    assert all(page is pages[0] for page in pages)


def test_a_row_that_is_read_while_its_counter_is_restarted_tells_no_lie(runner: LoopRunner) -> None:
    class SlowReader(Board):
        def _row(self, record: Any, edits: Any) -> Row:
            if restart:
                self.restart([restart.pop()])
            return super()._row(record, edits)

    async def fail(counter: Counter) -> None:
        raise LookupError("no such thing")

    restart: list[int] = []
    board = SlowReader(runner)
    [id] = board.start(fail, name="x")
    wait_for(board, State.FAILED, [id])
    restart.append(id)
    [found] = board.page().rows
    assert (found.state, found.error) in [(State.FAILED, "LookupError: no such thing"), (State.RUNNING, None)]


def test_rows_show_the_last_seconds_and_totals_the_last_minute(board: Board) -> None:
    [id] = board.start(count, name="x", interval_s=0.05)
    wait_until(lambda: len(row(board, id).history) >= 3)
    found = row(board, id)
    assert found.history[-1] == found.value
    assert list(found.history) == sorted(found.history)
    totals = board.totals()
    assert totals.ticks_per_s > 0
    assert totals.ticks > 0
    assert 0 <= totals.lateness_p50_s <= totals.lateness_p99_s
    assert totals.running_history[-1] == 1
    assert totals.ended_history[-1] == 0
    assert len(totals.ticks_history) == len(totals.running_history) == len(totals.ended_history)
    board.stop([id])
    wait_for(board, State.STOPPED, [id])
    wait_until(lambda: board.totals().ended_history[-1] == 1)
    assert board.totals().running_history[-1] == 0
    assert row(board, id).history[-1] == row(board, id).value


def test_the_ticks_are_the_sum_of_all_values_when_all_have_ended(board: Board) -> None:
    async def counts_down(counter: Counter) -> None:
        while counter.value > -5:
            await counter.beat()
            counter.add(-1)

    async def leaps(counter: Counter) -> None:
        counter.add(1_000)
        await counter.beat()
        raise LookupError("no such thing")

    ids = [
        *board.start(count, name="a", n=20, interval_s=0.05, target=3),
        *board.start(count_in_thread, name="b", n=5, interval_s=0.05),
        *board.start(counts_down, name="c", interval_s=0.05),
        *board.start(leaps, name="d", interval_s=0.05),
    ]
    wait_until(lambda: all(row(board, id).value for id in ids))
    board.stop(ids[20:25])
    wait_until(lambda: not any(state in ACTIVE for state in states(board)))
    first = sum(row(board, id).value for id in ids)
    wait_until(lambda: board.totals().ticks == first)
    board.restart(ids[:10])
    wait_until(lambda: not any(state in ACTIVE for state in states(board)))
    ticks = first + sum(row(board, id).value for id in ids[:10])
    wait_until(lambda: board.totals().ticks == ticks)
    board.remove(ids)
    samples = board._samples.last[0]
    wait_until(lambda: board._samples.last[0] > samples + 1)
    assert board.totals().ticks == ticks


def test_the_log_of_a_counter_tells_its_life_in_order(board: Board) -> None:
    async def job(counter: Counter) -> None:
        counter.log("hello")
        await to_thread.run_sync(counter.log, "from a thread")
        counter.add(2)
        try:
            await asyncio.Event().wait()
        finally:
            counter.log("good-bye")

    [id] = board.start(job, name="x")
    wait_until(lambda: row(board, id).value == 2)
    board.stop([id])
    wait_for(board, State.STOPPED, [id])
    assert texts(board, id) == ["started", "hello", "from a thread", "asked to stop", "good-bye", "stopped at 2"]
    times = [when for when, _ in board.detail(id).log]
    assert times == sorted(times)


def test_the_log_of_a_chatty_counter_stays_short(board: Board) -> None:
    async def job(counter: Counter) -> None:
        for number in range(1_000):
            for _ in range(50):
                counter.log(f"line {number}")
            await asyncio.sleep(0)

    [id] = board.start(job, name="x")
    wait_for(board, State.DONE, [id])
    assert len(texts(board, id)) == 102
    assert texts(board, id)[-2:] == ["line 999", "done at 0"]


@pytest.mark.parametrize("nonsense", ["x", None, float("nan"), 1.5, True, 2**60, [1], object()])
def test_a_job_that_writes_nonsense_harms_no_other(board: Board, nonsense: Any) -> None:
    async def job(counter: Counter) -> None:
        counter.add(5)
        while not board._samples.history(board._records[counter.id].place):
            await counter.beat()
        counter.value = nonsense
        await asyncio.Event().wait()

    [other] = board.start(count, name="other", interval_s=0.05)
    [id] = board.start(job, name="x", interval_s=0.05)
    wait_until(lambda: board._records[id].counter.value is nonsense)
    assert row(board, id).value == 5
    assert [found.value for found in board.page(match="x").rows] == [5]
    assert goes_on(board, other)
    board.stop([id])
    wait_for(board, State.STOPPED, [id])
    assert (row(board, id).value, row(board, id).history[-1]) == (5, 5.0)
    board.stop([other])
    wait_for(board, State.STOPPED, [other])
    wait_until(lambda: board.totals().ticks == 5 + row(board, other).value)


def test_a_counter_with_a_target_that_leaves_nonsense_is_stopped_all_the_same(board: Board) -> None:
    nonsense: Any = "x"

    async def job(counter: Counter) -> None:
        counter.value = nonsense
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    [id] = board.start(job, name="x", target=5)
    wait_until(lambda: board._records[id].counter.value is nonsense)
    board.stop([id])
    wait_until(lambda: state_of(board, id) == State.STOPPED, 5)


def test_a_counter_whose_file_was_edited_is_outdated_while_it_runs(board: Board, tmp_path: Path) -> None:
    file = tmp_path / "job_of_mine.py"
    file.write_text("async def job(counter):\n    await counter.beat()\n")
    os.utime(file, (0, 0))
    spec = importlib.util.spec_from_file_location("job_of_mine", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    [id] = board.start(module.job, name="x", interval_s=3600)
    assert not row(board, id).outdated
    os.utime(file)
    assert row(board, id).outdated
    board.stop([id])
    wait_for(board, State.STOPPED, [id])
    assert not row(board, id).outdated


# Bad input


@pytest.mark.parametrize(
    ("bad", "what_is_right"),
    [
        ({"interval_s": math.nan}, "interval_s must be from 0.05 to 86400 seconds, got nan"),
        ({"interval_s": math.inf}, "interval_s must be from 0.05 to 86400 seconds, got inf"),
        ({"interval_s": -math.inf}, "interval_s must be from 0.05 to 86400 seconds, got -inf"),
        ({"interval_s": 0}, "interval_s must be from 0.05 to 86400 seconds, got 0"),
        ({"interval_s": -1.0}, "interval_s must be from 0.05 to 86400 seconds, got -1.0"),
        ({"interval_s": 0.0499}, "interval_s must be from 0.05 to 86400 seconds, got 0.0499"),
        ({"interval_s": 86_400.1}, "interval_s must be from 0.05 to 86400 seconds, got 86400.1"),
        ({"interval_s": "1"}, "interval_s must be from 0.05 to 86400 seconds, got '1'"),
        ({"interval_s": None}, "interval_s must be from 0.05 to 86400 seconds, got None"),
        ({"n": 0}, "n must be a whole number from 1, got 0"),
        ({"n": -5}, "n must be a whole number from 1, got -5"),
        ({"n": 1.5}, "n must be a whole number from 1, got 1.5"),
        ({"n": None}, "n must be a whole number from 1, got None"),
        ({"n": 100}, "no room for 100 more: 99 of 100 places are free; stop some first"),
        ({"n": 10**30}, "no room for 1,000,000,000,.* more: 99 of 100 places are free; stop some first"),
        ({"target": 0}, "target must be a whole number from 1, or nothing for no end, got 0"),
        ({"target": -1}, "target must be a whole number from 1, or nothing for no end, got -1"),
        ({"target": 1.5}, "target must be a whole number from 1, or nothing for no end, got 1.5"),
        ({"target": math.nan}, "target must be a whole number from 1, or nothing for no end, got nan"),
        ({"name": ""}, "name must not be empty, got ''"),
        ({"name": " \t "}, "name must not be empty, got"),
        ({"name": "\u3000"}, "name must not be empty, got"),
        ({"name": None}, "name must not be empty, got None"),
        ({"name": "x" * 81}, "name must have at most 80 characters, got 81"),
        ({"name": "x" * 10**6}, "name must have at most 80 characters, got 1000000"),
        ({"name": "a\nb"}, "name must have no control characters or line breaks, got '"),
        ({"name": "a\x00"}, "name must have no control characters or line breaks, got '"),
        ({"name": "a\x1b[31m"}, "name must have no control characters or line breaks, got '"),
        ({"name": "a\x7f"}, "name must have no control characters or line breaks, got '"),
        ({"name": "a\x85"}, "name must have no control characters or line breaks, got '"),
        ({"name": "a\u2028b"}, "name must have no control characters or line breaks, got '"),
        ({"name": "\ud800"}, "name must have no control characters or line breaks, got"),
        ({"job": None}, "job must be an async function that takes a Counter, got None"),
        ({"job": "count"}, "job must be an async function that takes a Counter, got 'count'"),
        ({"owner": ""}, "owner must not be empty: give None for a counter that is everyone's"),
    ],
)
def test_bad_input_is_refused_in_words_and_touches_nothing(
    runner: LoopRunner, bad: dict[str, Any], what_is_right: str
) -> None:
    board = Board(runner, max_active=100)
    [id] = board.start(wait_for_ever, name="x")
    with pytest.raises(ValueError, match=what_is_right):
        board.start(**{"job": count, "name": "y", **bad})
    assert states(board) == {State.RUNNING: 1}
    assert names(board) == ["x"]
    assert list(board.start(count, name="y")) == [id + 1], "an id is lost"


@pytest.mark.parametrize(
    "good",
    [
        {"interval_s": 0.05},
        {"interval_s": 86_400},
        {"n": 100},
        {"target": 10**100},
        {"name": "x" * 80},
        {"name": "**bold** <script> `code` [link](http://x) :red[no] $x$"},
        {"name": "\u202eright to left\u202c \u200f🙂👩‍👩‍👧 e\u0301"},
    ],
)
def test_what_lies_just_within_the_bounds_is_taken(runner: LoopRunner, good: dict[str, Any]) -> None:
    board = Board(runner, max_active=100)
    ids = board.start(**{"job": count, "name": "x", **good})
    found = row(board, ids[-1])
    assert found.state == State.RUNNING
    assert len(ids) == good.get("n", 1)
    assert found.interval_s == good.get("interval_s", 1.0)
    assert found.target == good.get("target")
    assert found.name == good.get("name", "x 100" if "n" in good else "x")


@pytest.mark.parametrize("unknown", [0, -1, 3, 10**30])
def test_an_id_that_was_never_given_out_is_refused_and_touches_nothing(board: Board, unknown: int) -> None:
    [running] = board.start(wait_for_ever, name="running")
    [done] = board.start(count, name="done", interval_s=0.05, target=1)
    wait_for(board, State.DONE, [done])
    for command in (board.stop, board.restart, board.remove):
        with pytest.raises(KeyError, match=f"there never was a counter {unknown}: take ids from start, page or ids"):
            command([running, done, unknown])
    with pytest.raises(KeyError, match=f"there never was a counter {unknown}: take ids from start, page or ids"):
        board.detail(unknown)
    assert states(board) == {State.RUNNING: 1, State.DONE: 1}


def test_a_removed_id_is_refused_calmly_by_detail_and_ignored_by_commands(board: Board) -> None:
    [id] = board.start(count, name="x", interval_s=0.05, target=1)
    wait_for(board, State.DONE, [id])
    board.remove([id])
    with pytest.raises(KeyError, match="counter 1 was removed: choose another"):
        board.detail(id)
    for command in (board.stop, board.restart, board.remove):
        command([id])
    assert states(board) == {}


def test_a_restart_without_room_is_refused_and_touches_nothing(runner: LoopRunner) -> None:
    board = Board(runner, max_active=3)
    ids = board.start(count, name="x", n=3, interval_s=0.05, target=1)
    wait_for(board, State.DONE, ids)
    board.start(wait_for_ever, name="y", n=2)
    with pytest.raises(ValueError, match="no room for 3 more: 1 of 3 places are free; stop some first"):
        board.restart(ids)
    assert states(board) == {State.RUNNING: 2, State.DONE: 3}
    board.restart(ids[:1])
    wait_for(board, State.DONE, ids)


def test_counters_that_are_stopping_or_stuck_still_take_their_place(runner: LoopRunner) -> None:
    board = Board(runner, max_active=1, stop_timeout_s=0.1)
    cleans_up = CleansUp()
    [id] = board.start(cleans_up.job, name="x")
    assert cleans_up.began.wait(20)
    board.stop([id])
    with pytest.raises(ValueError, match="no room"):
        board.start(count, name="y")
    wait_for(board, State.STUCK, [id])
    with pytest.raises(ValueError, match="no room"):
        board.start(count, name="y")
    cleans_up.may_end.set()
    wait_for(board, State.STOPPED, [id])
    board.start(count, name="y")


# A loop that is blocked, or closed


def test_commands_and_reads_do_not_wait_for_a_blocked_loop(board: Board) -> None:
    [done] = board.start(count, name="done", interval_s=0.05, target=1)
    wait_for(board, State.DONE, [done])
    [running] = board.start(wait_for_ever, name="running", owner="me")
    with blocked_loop(board) as is_blocked:
        [new] = board.start(count, name="new", interval_s=0.05, target=1)
        board.stop([running])
        board.restart([done])
        board.remove([done, running])
        board.renew("me")
        shown = {found.name: found.state for found in board.page(owner="me").rows}
        assert shown == {
            "running": State.STOPPING,
            "done": State.RUNNING,
            "blocks the loop": State.RUNNING,
            "new": State.RUNNING,
        }
        assert states(board) == {State.RUNNING: 3, State.STOPPING: 1}
        assert texts(board, new) == ["started"]
        assert names(board, match="NEW") == ["new"]
        assert len(board.ids(owner="me")) == 4
        assert is_blocked(), "a command waited for the loop"
    wait_for(board, State.DONE, [done, new])
    wait_for(board, State.STOPPED, [running])


def test_the_end_of_the_loop_stops_every_counter_and_waits_for_its_clean_up() -> None:
    runner = LoopRunner()
    board = Board(runner)
    cleaned: list[int] = []

    async def job(counter: Counter) -> None:
        try:
            counter.add()
            await count(counter)
        finally:
            await asyncio.sleep(0.01)
            await to_thread.run_sync(cleaned.append, counter.id)

    ids = board.start(job, name="x", n=20, interval_s=3600)
    wait_until(lambda: all(row(board, id).value for id in ids))
    unmade = board.start(count, name="y", n=2 * PIECE)
    assert runner.close(timeout_s=20) == ()
    assert sorted(cleaned) == list(ids)
    assert states(board) == {State.STOPPED: len(ids) + len(unmade)}
    assert texts(board, ids[0])[-2:] == ["asked to stop", "stopped at 1"]


def test_the_end_of_the_loop_does_not_cut_a_clean_up_that_is_under_way() -> None:
    runner = LoopRunner()
    board = Board(runner)
    cleaning, cleaned = threading.Event(), threading.Event()

    async def job(counter: Counter) -> None:
        try:
            counter.add()
            await count(counter)
        finally:
            cleaning.set()
            for _ in range(20):
                await asyncio.sleep(0.01)
            cleaned.set()

    [id] = board.start(job, name="x", interval_s=3600)
    wait_until(lambda: row(board, id).value)
    board.stop([id])
    assert cleaning.wait(20)
    assert runner.close(timeout_s=20) == ()
    assert cleaned.is_set()
    assert states(board) == {State.STOPPED: 1}


def test_two_boards_can_note_the_ends_of_their_counters_at_once(runner: LoopRunner, board: Board) -> None:
    other_runner = LoopRunner()
    other = Board(other_runner)
    [slow] = other.start(count, name="slow", interval_s=0.3, target=1)
    wait_until(lambda: other._records[slow].task)
    with other._lock:  # so that the other loop stands in the middle of noting an end
        wait_until(lambda: other._records[slow].counter.finished)
        time.sleep(0.05)
        [id] = board.start(count, name="x", interval_s=0.05, target=1)
        wait_until(lambda: state_of(board, id) == State.DONE, 5)
    wait_for(other, State.DONE, [slow])
    other_runner.close()


def test_the_end_of_the_loop_names_a_counter_that_does_not_end() -> None:
    runner = LoopRunner()
    board = Board(runner)
    began = threading.Event()

    async def swallow(counter: Counter) -> None:
        while True:
            with suppress(asyncio.CancelledError):
                began.set()
                await asyncio.Event().wait()

    board.start(swallow, name="deaf")
    board.start(count, name="x")
    assert began.wait(20)
    assert runner.close(timeout_s=0.2) == ("counter 1 (deaf)",)
    assert states(board) == {State.STOPPING: 1, State.STOPPED: 1}


def test_a_closed_board_can_be_read_and_cleared_but_starts_nothing() -> None:
    runner = LoopRunner()
    board = Board(runner)
    ids = board.start(count, name="x", n=3)
    runner.close(timeout_s=20)
    before = board.page()
    with pytest.raises(RuntimeError, match="closed"):
        board.start(count, name="y")
    with pytest.raises(RuntimeError, match="closed"):
        board.restart(ids)
    with pytest.raises(RuntimeError, match="closed"):
        Board(runner)
    board.stop(ids)
    board.renew("me")
    assert board.page() == before
    assert states(board) == {State.STOPPED: 3}
    board.remove(ids[:1])
    assert states(board) == {State.STOPPED: 2}
    assert names(board) == ["x 2", "x 3"]


# Leases


def test_private_counters_end_with_the_lease_of_their_owner(runner: LoopRunner) -> None:
    board = Board(runner, lease_s=1.5)
    cleans_up = CleansUp()
    [everyones] = board.start(wait_for_ever, name="everyone's")
    [gone] = board.start(cleans_up.job, name="gone", owner="gone")
    [ended] = board.start(count, name="ended", interval_s=0.05, target=1, owner="gone")
    [here] = board.start(wait_for_ever, name="here", owner="here")
    wait_for(board, State.DONE, [ended])

    def lease_is_over() -> bool:
        board.renew("here")
        return cleans_up.cleaning.is_set()

    wait_until(lease_is_over)
    assert state_of(board, gone) == State.STOPPING
    cleans_up.may_end.set()

    def is_removed() -> bool:
        board.renew("here")
        return not names(board, match="gone", owner="gone")

    wait_until(is_removed)
    for id in (gone, ended):
        with pytest.raises(KeyError, match="was removed"):
            board.detail(id)
    assert [state_of(board, id) for id in (everyones, here)] == [State.RUNNING, State.RUNNING]
    assert states(board) == {State.RUNNING: 2}
    assert set(board._audiences) == {None, "here"}


def test_renewing_an_owner_without_counters_does_nothing(board: Board) -> None:
    board.renew("nobody")
    assert set(board._audiences) == {None}


# The one board of a process


@pytest.fixture
def no_shared_board() -> Iterator[None]:
    yield
    kept = vars(threading.main_thread())
    kept.pop("shared_board_lock", None)
    board = kept.pop("shared_board", None)
    if board:
        assert board.runner.close(timeout_s=20) == ()


@pytest.mark.usefixtures("no_shared_board")
def test_all_threads_share_one_board() -> None:
    together = threading.Barrier(20)

    def ask() -> Board:
        together.wait(20)
        return shared_board()

    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(ask) for _ in range(20)]
        assert {id(future.result(20)) for future in asked} == {id(shared_board())}
    assert [thread.name for thread in threading.enumerate()].count("counters") == 1


@pytest.mark.usefixtures("no_shared_board")
def test_a_released_board_stops_everything_and_the_next_one_is_new() -> None:
    board = shared_board()
    ids = board.start(count, name="x", n=3)
    release(board)
    new = shared_board()
    assert new is not board
    wait_until(lambda: states(board) == {State.STOPPED: len(ids)})
    assert states(new) == {}
    assert board.runner.close() == ()


def test_a_board_made_before_an_edit_is_given_the_code_of_now(runner: LoopRunner) -> None:
    class OldRunner(LoopRunner):
        def health(self) -> Any:
            raise NotImplementedError

    class OldBoard(Board):
        def totals(self) -> Any:
            raise NotImplementedError

    runner.__class__ = OldRunner
    board: Board = OldBoard(runner)
    [id] = board.start(count, name="x", interval_s=0.05)
    assert adopt(board) is board
    assert states(board) == {State.RUNNING: 1}
    assert goes_on(board, id)
    assert runner.health().lag_p99_s >= 0


@pytest.mark.usefixtures("no_shared_board")
async def test_the_shared_board_is_closed_when_its_server_shuts_down(capsys: pytest.CaptureFixture[str]) -> None:
    cleaned = threading.Event()

    async def job(counter: Counter) -> None:
        try:
            counter.add()
            await count(counter)
        finally:
            await asyncio.to_thread(cleaned.set)

    async with lifespan(None):
        board = shared_board()
        ids = board.start(job, name="x", n=2)
        await asyncio.to_thread(wait_until, lambda: all(row(board, id).value for id in ids))
    assert cleaned.is_set()
    assert board.runner.closed
    assert states(board) == {State.STOPPED: 2}
    assert capsys.readouterr().out == "2 counters ended\n"


async def test_a_server_that_never_made_a_board_shuts_down_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    async with lifespan(None):
        pass
    assert capsys.readouterr().out == ""


# The storm

LEGAL = {
    State.QUEUED: {State.RUNNING, State.STOPPED},
    State.RUNNING: {State.STOPPING, State.DONE, State.FAILED},
    State.STOPPING: {State.STUCK, State.STOPPED, State.DONE, State.FAILED},
    State.STUCK: {State.STOPPED, State.DONE, State.FAILED},
    **{state: {State.QUEUED, State.RUNNING} for state in ENDED},  # a restart
}


STAGE = {State.QUEUED: 0, State.RUNNING: 1, State.STOPPING: 2, State.STUCK: 3, **dict.fromkeys(ENDED, 4)}


class Witness(Board):
    """A board that notes each change of state, and what is wrong with it. Its jobs tell when their code runs."""

    def __init__(self, runner: LoopRunner, **options: Any) -> None:
        self.wrong: list[str] = []
        self.moves: Tally[tuple[State, State]] = Tally()
        self.alive: set[int] = set()  # ids of those whose code runs; touched by the loop only
        self.added = 0
        self.removed: set[int] = set()
        super().__init__(runner, **options)

    def _move(self, record: Any, state: State) -> None:
        before, id = record.state, record.counter.id
        self.moves[before, state] += 1
        if state not in LEGAL[before]:
            self.wrong.append(f"{id} went from {before} to {state}")
        if state in ENDED and id in self.alive:
            self.wrong.append(f"{id} is called {state} while its code runs")
        super()._move(record, state)

    def _remove(self, id: int) -> None:
        self.removed.add(id)
        super()._remove(id)

    def job(self, work: Job) -> Job:
        async def watched(counter: Counter) -> None:
            if counter.id in self.alive:
                self.wrong.append(f"{counter.id} runs twice")
            self.alive.add(counter.id)
            try:
                await work(counter)
            finally:
                self.added += counter.value
                self.alive.discard(counter.id)

        return watched


async def fails_at_three(counter: Counter) -> None:
    while counter.value < 3:
        counter.add(await counter.beat())
    raise LookupError("three")


async def cleans_up_slowly(counter: Counter) -> None:
    try:
        await count(counter)
    finally:
        await asyncio.sleep(0.02 * (counter.id % 10))  # for some longer than the time they are given


def test_a_storm_of_commands_from_many_threads_loses_nothing(
    runner: LoopRunner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    board = Witness(runner, max_active=300, stop_timeout_s=0.1)
    jobs = [board.job(job) for job in (count, count_in_thread, fails_at_three, cleans_up_slowly)]
    jobs.append(at_most(5, board.job(count)))
    given: list[int] = []
    done: Tally[str] = Tally()
    over = time.monotonic() + 4

    def command(seed: int) -> None:
        dice = random.Random(seed)
        while time.monotonic() < over:
            some = dice.sample(given, min(len(given), dice.randrange(1, 20)))
            with suppress(ValueError):  # no room
                match dice.randrange(5):
                    case 0:
                        n, target, owner = dice.choice([1, 3, 30]), dice.choice([None, 2, 8]), dice.choice([None, "me"])
                        job = dice.choice(jobs)
                        given.extend(board.start(job, name="x", n=n, interval_s=0.05, target=target, owner=owner))
                    case 1 | 2:
                        done["stop"] += board.stop(some)
                    case 3:
                        done["restart"] += board.restart(some)
                    case 4:
                        done["remove"] += board.remove(some)
            time.sleep(dice.uniform(0, 0.01))

    def read(seed: int) -> None:
        dice = random.Random(seed)
        last: dict[tuple[int, float], Row] = {}
        while time.monotonic() < over:
            age_s = 0.02 * (seed % 2)  # half of them share
            rows = board.page(owner="me", limit=1_000, match=dice.choice(["", "x"]), max_age_s=age_s).rows
            assert len({found.id for found in rows}) == len(rows)
            for found in rows:
                before = last.get((found.id, found.started_at), found)
                assert STAGE[before.state] <= STAGE[found.state], (before, found)
                assert before.value <= found.value
                assert found.state != State.FAILED or found.error == "LookupError: three"
                last[found.id, found.started_at] = found
            totals = board.totals()
            assert min(totals.states.values()) >= 0
            assert sum(totals.states[state] for state in ACTIVE) <= 300
            if given:
                with suppress(KeyError):  # removed
                    board.detail(dice.choice(given))
            time.sleep(0.005)

    with ThreadPoolExecutor(10) as pool:
        storm = [pool.submit(command, seed) for seed in range(6)] + [pool.submit(read, seed) for seed in range(4)]
        for future in storm:
            future.result(60)

    board.stop(given)
    wait_until(lambda: not any(state in ACTIVE for state in states(board)))
    assert board.wrong == []
    assert board.alive == set()
    assert set(board.moves) >= {(State.RUNNING, after) for after in LEGAL[State.RUNNING]}
    assert (State.STOPPING, State.STUCK) in board.moves
    assert min(done[name] for name in ("stop", "restart", "remove")) > 0
    rows = board.page(owner="me", limit=10**6).rows
    assert sorted(found.id for found in rows) == sorted(set(given) - board.removed), "a counter is lost"
    assert sorted(given) == list(range(1, len(given) + 1))
    assert Tally(found.state for found in rows) == states(board)
    assert {found.error for found in rows if found.state == State.FAILED} <= {"LookupError: three"}
    wait_until(lambda: board.totals().ticks == board.added)
