"""What the tests share, and the guard that fails a test which leaves a thread, a process or a task behind."""

import asyncio
import gc
import inspect
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import psutil
import pytest

from loop_runner import LoopRunner
from tasks import Board

LEFT_AFTER_S = 3.0  # what ends by itself needs a moment: a thread that was told to, a process that was killed


@pytest.fixture(scope="session", autouse=True)
def no_loop_of_the_main_thread() -> None:
    """Else looptime makes one for the first test that is no coroutine, and nobody ever closes it."""
    asyncio.set_event_loop(None)


@pytest.fixture
def runner() -> Iterator[LoopRunner]:
    """A runner on which everything must end: what does not is a failure."""
    runner = LoopRunner()
    yield runner
    assert runner.close(timeout_s=20) == ()


@pytest.fixture
def board(runner: LoopRunner) -> Board:
    """A board on which nothing gets stuck, however slow the machine is."""
    return Board(runner, stop_timeout_s=60)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail the test that leaves a thread, a child process (zombies are some) or a task on any loop."""
    before = set(living())
    yield
    deadline = time.monotonic() + LEFT_AFTER_S
    while left := [repr(found) for found in living() if found not in before]:
        assert time.monotonic() < deadline, f"the test left this behind: {left}"
        time.sleep(0.02)
        gc.collect()


@pytest.fixture(autouse=True)
def no_task_is_left(request: pytest.FixtureRequest, nothing_is_left: None) -> None:
    """Look at the loop of a coroutine test before it is closed, which would cancel what the test left there."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("loop_gets_empty")


@pytest.fixture
async def loop_gets_empty() -> AsyncIterator[None]:
    yield
    deadline = time.monotonic() + LEFT_AFTER_S
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        assert time.monotonic() < deadline, f"the test left this behind: {left}"
        await asyncio.sleep(0.02)


def living() -> list[object]:
    """List all threads, all child processes, and the unfinished tasks of all loops."""
    tasks = [found for found in gc.get_objects() if issubclass(type(found), asyncio.Task) and not found.done()]
    return [*threading.enumerate(), *psutil.Process().children(recursive=True), *tasks]


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait for the condition to become true, or fail."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {inspect.getsource(condition).strip()}"
        time.sleep(0.005)
