"""The runner, with threads and a real loop. Whoever waits here waits for an event with a deadline, never for a time."""

import asyncio
import inspect
import logging
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_futures
from typing import Any

import pytest

from conftest import wait_until
from loop_runner import Block, LoopRunner


async def answer() -> int:
    return 42


def hold(held: threading.Event, release: threading.Event) -> None:
    """Block the thread until it is released."""
    held.set()
    while not release.is_set():
        time.sleep(0.01)


HOLDS_AT = f"test_loop_runner.py:{hold.__code__.co_firstlineno + 4} in hold"


async def block(held: threading.Event, release: threading.Event) -> None:
    hold(held, release)


async def swallow(swallowed: threading.Event, release: threading.Event) -> None:
    """Go on until it is released, whatever cancels it."""
    while not release.is_set():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            swallowed.set()


class Cleaning:
    """A coroutine that waits to be cancelled and then cleans up, in several steps."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.cleaned = threading.Event()

    async def run(self) -> None:
        try:
            self.began.set()
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0.01)
            self.cleaned.set()


class Blocking:
    """A coroutine that blocks the loop from the moment this is entered until it is left."""

    def __init__(self, runner: LoopRunner) -> None:
        self.runner = runner
        self.release = threading.Event()

    def __enter__(self) -> "Future[None]":
        held = threading.Event()
        future = self.runner.submit(block(held, self.release))
        assert held.wait(20)
        return future

    def __exit__(self, *_: object) -> None:
        self.release.set()


def threads_of(runner: LoopRunner) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(runner.name)]


# Submit


def test_a_submitted_coroutine_runs_on_the_thread_of_the_loop(runner: LoopRunner) -> None:
    async def where() -> threading.Thread:
        return threading.current_thread()

    thread = runner.submit(where()).result(20)
    assert thread.name == "event-loop"
    assert thread.daemon
    assert runner.submit(where()).result(20) is thread


def test_submit_does_not_wait_for_the_loop(runner: LoopRunner) -> None:
    with Blocking(runner) as blocking:
        future = runner.submit(answer())
        assert not blocking.done(), "the loop was free before submit returned"
        assert not future.done()
    assert future.result(20) == 42


def test_a_coroutine_can_submit_another_to_its_own_loop(runner: LoopRunner) -> None:
    async def outer() -> int:
        return await asyncio.wrap_future(runner.submit(answer()))

    assert runner.submit(outer()).result(20) == 42


def test_an_error_of_a_coroutine_waits_in_its_future(runner: LoopRunner) -> None:
    async def fail() -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        runner.submit(fail()).result(20)


def test_cancelling_a_future_cancels_the_coroutine(runner: LoopRunner) -> None:
    cleaning = Cleaning()
    future = runner.submit(cleaning.run())
    assert cleaning.began.wait(20)
    assert future.cancel()
    assert cleaning.cleaned.wait(20)


def test_cancelling_a_future_before_its_coroutine_began_cancels_it_all_the_same(runner: LoopRunner) -> None:
    cleaning = Cleaning()
    with Blocking(runner):
        assert runner.submit(cleaning.run()).cancel()
    assert cleaning.cleaned.wait(20)


@pytest.mark.parametrize("hand_over", [LoopRunner.submit, LoopRunner.run])
def test_a_closed_runner_refuses_a_coroutine_and_closes_it(hand_over: Callable[..., object]) -> None:
    runner = LoopRunner(name="spare")
    runner.close()
    assert runner.closed
    coro = answer()
    with pytest.raises(RuntimeError, match="loop runner 'spare' is closed: make a new LoopRunner"):
        hand_over(runner, coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


def test_a_submit_that_races_with_close_is_refused_or_ends() -> None:
    """What is dangerous is a coroutine handed to a loop that has just ended: its future would never be done."""

    def submit_until_refused(runner: LoopRunner, together: threading.Barrier) -> "list[Future[int]]":
        futures = []
        together.wait(20)
        while True:
            try:
                futures.append(runner.submit(answer()))
            except RuntimeError:
                return futures
            if len(futures) % 8 == 0:
                time.sleep(0)

    for _ in range(10):
        runner = LoopRunner()
        together = threading.Barrier(5)
        with ThreadPoolExecutor() as pool:
            submitting = [pool.submit(submit_until_refused, runner, together) for _ in range(4)]
            together.wait(20)
            assert runner.close(timeout_s=20) == ()
            futures = [future for each in submitting for future in each.result(20)]
        done, not_done = wait_for_futures(futures, timeout=20)
        assert not not_done
        assert all(future.cancelled() or future.result() == 42 for future in done)


def test_a_close_in_the_middle_of_a_submit_comes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = LoopRunner()
    closing = threading.Thread(target=runner.close)
    hand_over = asyncio.run_coroutine_threadsafe

    def hand_over_late(coro: Coroutine[Any, Any, int], loop: asyncio.AbstractEventLoop) -> "Future[int]":
        closing.start()
        closing.join(0.2)
        return hand_over(coro, loop)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", hand_over_late)
    future = runner.submit(answer())
    closing.join(20)
    assert future.done(), "it was handed to a loop that had ended"


# Run


def test_run_returns_the_result(runner: LoopRunner) -> None:
    assert runner.run(answer()) == 42
    assert runner.run(answer(), timeout_s=20) == 42


def test_run_raises_what_the_coroutine_raised(runner: LoopRunner) -> None:
    async def fail(error: Exception) -> None:
        raise error

    with pytest.raises(LookupError, match=r"^no such thing$"):
        runner.run(fail(LookupError("no such thing")))
    with pytest.raises(TimeoutError, match=r"^of the coroutine itself$"):
        runner.run(fail(TimeoutError("of the coroutine itself")), timeout_s=20)


def test_run_cancels_a_coroutine_that_takes_too_long(runner: LoopRunner) -> None:
    cleaning = Cleaning()
    with pytest.raises(TimeoutError, match=r"Cleaning.run .* gave no result in 0.1 s and was cancelled"):
        runner.run(cleaning.run(), timeout_s=0.1)
    assert cleaning.cleaned.wait(20) or not cleaning.began.is_set()


def test_run_cancels_the_coroutine_when_ctrl_c_ends_the_wait(runner: LoopRunner) -> None:
    cleaning = Cleaning()
    main = threading.main_thread().ident
    assert main

    async def press_ctrl_c() -> None:
        await asyncio.to_thread(wait_until, lambda: sys._current_frames()[main].f_code.co_name == "wait")
        signal.pthread_kill(main, signal.SIGINT)
        await cleaning.run()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts `pytest &` without it
    try:
        with pytest.raises(KeyboardInterrupt):
            runner.run(press_ctrl_c(), timeout_s=20)
    finally:
        signal.signal(signal.SIGINT, before)
    assert cleaning.cleaned.wait(20) or not cleaning.began.is_set()


def test_run_on_its_own_loop_says_what_to_do_instead(runner: LoopRunner) -> None:
    async def run_it() -> str:
        coro = answer()
        with pytest.raises(RuntimeError, match="would wait for itself: await the coroutine instead"):
            runner.run(coro, timeout_s=10)
        return inspect.getcoroutinestate(coro)

    assert runner.run(run_it(), timeout_s=20) == inspect.CORO_CLOSED


def test_many_threads_can_run_coroutines_at_once(runner: LoopRunner) -> None:
    async def double(n: int) -> int:
        await asyncio.sleep(0.001)
        return 2 * n

    with ThreadPoolExecutor(20) as pool:
        doubled = list(pool.map(lambda n: runner.run(double(n), timeout_s=20), range(500)))
    assert doubled == [2 * n for n in range(500)]


# What tries to end the loop


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_the_loop_outlives_an_error_that_would_end_the_program(
    runner: LoopRunner, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    bystander = Cleaning()
    other = runner.submit(bystander.run())

    async def fail() -> None:
        await asyncio.sleep(0)
        raise error

    with pytest.raises(type(error)):
        runner.run(fail(), timeout_s=20)
    assert runner.run(answer(), timeout_s=20) == 42
    assert not other.done()
    assert f"tried to end it: {error!r}; it goes on" in caplog.text


def test_the_loop_outlives_one_that_stops_it(runner: LoopRunner) -> None:
    async def stop_the_loop() -> None:
        asyncio.get_running_loop().stop()

    runner.submit(stop_the_loop()).result(20)
    assert runner.run(answer(), timeout_s=20) == 42


def test_the_loop_outlives_a_callback_that_exits(runner: LoopRunner) -> None:
    def leave() -> None:
        raise SystemExit

    async def call_it() -> None:
        asyncio.get_running_loop().call_soon(leave)

    runner.submit(call_it()).result(20)
    assert runner.run(answer(), timeout_s=20) == 42


def test_the_loop_outlives_one_that_cancels_all_tasks(runner: LoopRunner) -> None:
    async def cancel_all() -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    runner.submit(cancel_all()).result(20)
    assert runner.run(answer(), timeout_s=20) == 42


# Close


def test_close_waits_for_every_clean_up() -> None:
    runner = LoopRunner()
    cleanings = [Cleaning() for _ in range(20)]
    futures = [runner.submit(cleaning.run()) for cleaning in cleanings]
    assert all(cleaning.began.wait(20) for cleaning in cleanings)
    assert runner.close(timeout_s=20) == ()
    assert all(cleaning.cleaned.is_set() for cleaning in cleanings)
    assert all(future.cancelled() for future in futures)
    assert threads_of(runner) == []


def test_clean_up_that_needs_a_thread_runs_at_the_close() -> None:
    runner = LoopRunner()
    began, cleaned = threading.Event(), threading.Event()

    async def job() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(cleaned.set)

    runner.submit(job())
    assert began.wait(20)
    assert runner.close(timeout_s=20) == ()
    assert cleaned.is_set()


def test_close_waits_for_tasks_that_a_clean_up_started() -> None:
    runner = LoopRunner()
    began, cleaned = threading.Event(), threading.Event()

    async def late() -> None:
        await asyncio.sleep(0.05)
        cleaned.set()

    tasks = []

    async def job() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            tasks.append(asyncio.create_task(late()))

    runner.submit(job())
    assert began.wait(20)
    assert runner.close(timeout_s=20) == ()
    assert cleaned.is_set()


def test_close_finishes_asynchronous_generators() -> None:
    runner = LoopRunner()
    finished = threading.Event()
    generators = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            finished.set()

    async def take_one() -> int:
        generators.append(numbers())
        return await anext(generators[0])

    assert runner.run(take_one()) == 1
    assert not finished.is_set()
    runner.close(timeout_s=20)
    assert finished.is_set()


def test_close_names_what_does_not_end_and_ends_the_loop_all_the_same() -> None:
    runner = LoopRunner()
    swallowed, release = threading.Event(), threading.Event()

    async def under_a_name() -> None:
        task = asyncio.current_task()
        assert task
        task.set_name("stubborn")
        await swallow(swallowed, release)

    futures = [runner.submit(swallow(swallowed, release)), runner.submit(under_a_name())]
    assert runner.run(answer()) == 42
    assert runner.close(timeout_s=0.1) == ("stubborn", "swallow")
    assert swallowed.is_set()
    assert threads_of(runner) == []
    assert all(future.done() for future in futures), "somebody who waits for one would wait for ever"


def test_close_lets_go_of_a_thread_that_waits_for_what_does_not_end() -> None:
    runner = LoopRunner()
    swallowed, release = threading.Event(), threading.Event()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(lambda: runner.run(swallow(swallowed, release)))
        wait_until(lambda: runner._futures)
        assert runner.close(timeout_s=0.1) == ("swallow",)
        with pytest.raises(CancelledError):
            waiting.result(20)


def test_close_names_what_blocks_the_loop_and_the_loop_ends_when_it_can() -> None:
    runner = LoopRunner()
    with Blocking(runner) as blocking:
        assert runner.close(timeout_s=0.1) == ("block",)
        assert not blocking.done()
        assert runner.close() == ("block",)
    wait_until(lambda: not threads_of(runner))
    assert runner.close() == ()


def test_close_can_be_called_again() -> None:
    runner = LoopRunner()
    runner.submit(swallow(threading.Event(), threading.Event()))
    assert runner.run(answer()) == 42
    assert runner.close(timeout_s=0.1) == ("swallow",)
    assert runner.close(timeout_s=60) == ("swallow",)


def test_twenty_threads_can_close_at_once() -> None:
    runner = LoopRunner()
    cleaning = Cleaning()
    runner.submit(cleaning.run())
    runner.submit(swallow(threading.Event(), threading.Event()))
    assert cleaning.began.wait(20)
    together = threading.Barrier(20)

    def close() -> tuple[str, ...]:
        together.wait(20)
        left = runner.close(timeout_s=0.5)
        assert cleaning.cleaned.is_set()
        return left

    with ThreadPoolExecutor(20) as pool:
        closing = [pool.submit(close) for _ in range(20)]
        assert {future.result(20) for future in closing} == {("swallow",)}


def test_close_on_the_thread_of_the_loop_does_not_wait_for_itself() -> None:
    runner = LoopRunner()
    cleaning = Cleaning()
    runner.submit(cleaning.run())

    async def close_it() -> tuple[str, ...]:
        return runner.close(timeout_s=20)

    assert runner.run(close_it(), timeout_s=20) == ()
    wait_until(lambda: not threads_of(runner))
    assert cleaning.cleaned.is_set()


def test_close_without_waiting_lets_the_loop_finish_by_itself() -> None:
    runner = LoopRunner()
    cleaning = Cleaning()
    runner.submit(cleaning.run())
    with Blocking(runner) as blocking:
        assert runner.close(timeout_s=20, wait=False) == ()
        assert runner.closed
        assert not blocking.done(), "close waited for the loop"
    wait_until(lambda: not threads_of(runner))
    assert cleaning.cleaned.is_set()


# Hooks


def test_hooks_run_in_their_order_before_anything_is_cancelled() -> None:
    runner = LoopRunner()
    began = threading.Event()
    events: list[str] = []

    async def job() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            events.append("cancelled")

    async def hook(name: str) -> None:
        await asyncio.sleep(0.01)
        events.append(name)

    runner.at_close(lambda: hook("first"))
    runner.at_close(lambda: hook("second"))
    runner.submit(job())
    assert began.wait(20)
    assert runner.close(timeout_s=20) == ()
    assert events == ["first", "second", "cancelled"]


def test_a_hook_that_fails_keeps_nobody_from_cleaning_up(caplog: pytest.LogCaptureFixture) -> None:
    runner = LoopRunner()
    cleaning = Cleaning()
    done = threading.Event()

    async def fail() -> None:
        raise LookupError("in the hook")

    async def hook() -> None:
        done.set()

    runner.at_close(fail)
    runner.at_close(hook)
    runner.submit(cleaning.run())
    assert cleaning.began.wait(20)
    assert runner.close(timeout_s=20) == ()
    assert done.is_set()
    assert cleaning.cleaned.is_set()
    assert "clean-up of the loop 'event-loop' failed" in caplog.text
    assert "LookupError: in the hook" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()])
def test_a_hook_that_exits_keeps_nobody_from_cleaning_up(error: BaseException) -> None:
    runner = LoopRunner()
    cleaning = Cleaning()

    async def fail() -> None:
        raise error

    runner.at_close(fail)
    runner.submit(cleaning.run())
    assert cleaning.began.wait(20)
    assert runner.close(timeout_s=20) == ()
    assert cleaning.cleaned.is_set()


def test_a_hook_that_takes_too_long_is_cut_and_the_rest_cancelled() -> None:
    runner = LoopRunner()
    began, cancelled = threading.Event(), threading.Event()

    async def job() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    runner.at_close(asyncio.Event().wait)  # type: ignore[arg-type]
    runner.submit(job())
    assert began.wait(20)
    assert runner.close(timeout_s=0.2) == ()
    assert cancelled.is_set()


# Health


def test_health_tells_how_late_the_loop_answers(runner: LoopRunner) -> None:
    wait_until(lambda: len(runner.health().lag_history_s) >= 2)
    health = runner.health()
    assert 0 <= health.lag_p50_s <= health.lag_p99_s <= max(health.lag_history_s)


def test_the_health_of_a_new_and_of_a_closed_runner_can_be_read() -> None:
    runner = LoopRunner()
    assert runner.health().lag_p99_s >= 0
    runner.close()
    assert runner.health().blocked is None


def blocked(runner: LoopRunner) -> Block:
    """Wait until the runner says that its loop is blocked right here."""
    found: list[Block] = []

    def is_blocked_at_the_sleep() -> bool:
        block = runner.health().blocked
        if block is not None and block.where == HOLDS_AT:
            found.append(block)
        return bool(found)

    wait_until(is_blocked_at_the_sleep)
    return found[0]


def test_health_names_the_task_and_the_line_that_block_the_loop(
    runner: LoopRunner, caplog: pytest.LogCaptureFixture
) -> None:
    with Blocking(runner):
        first = blocked(runner)
        assert first.who == "block"
        wait_until(lambda: blocked(runner).seconds > first.seconds)
        assert runner.health().recent_blocks == ()
        worst = runner.health().lag_p99_s
        assert worst >= first.seconds, "a ping that is still under way counts as well"
    wait_until(lambda: runner.health().recent_blocks)
    over = runner.health().recent_blocks[-1]
    assert (over.who, over.where) == ("block", HOLDS_AT)
    assert over.seconds > first.seconds
    assert runner.health().blocked is None
    assert max(runner.health().lag_history_s) >= first.seconds
    wait_until(lambda: f"block blocked the loop 'event-loop' for {over.seconds:.1f} s at {HOLDS_AT}" in caplog.text)


def test_health_names_a_task_by_the_name_it_was_given(runner: LoopRunner) -> None:
    held, release = threading.Event(), threading.Event()

    async def under_a_name() -> None:
        task = asyncio.current_task()
        assert task
        task.set_name("counter 7")
        hold(held, release)

    runner.submit(under_a_name())
    try:
        assert blocked(runner).who == "counter 7"
    finally:
        release.set()


def test_health_says_so_when_a_callback_blocks_the_loop(runner: LoopRunner) -> None:
    held, release = threading.Event(), threading.Event()

    async def call_it() -> None:
        asyncio.get_running_loop().call_soon(hold, held, release)

    runner.submit(call_it())
    try:
        assert blocked(runner).who == "a callback"
    finally:
        release.set()


def test_the_last_blocks_are_kept(runner: LoopRunner, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    seen: list[Block] = []
    for _ in range(6):
        with Blocking(runner):
            blocked(runner)
        wait_until(lambda: runner.health().recent_blocks[-1:] != tuple(seen[-1:]))
        seen.append(runner.health().recent_blocks[-1])
    assert runner.health().recent_blocks == tuple(seen[-5:])
