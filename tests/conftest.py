"""What the tests share, and the guard that fails a test which leaves a thread, a process or a task behind."""

import asyncio
import gc
import inspect
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import psutil
import pytest

from loop_runner import LoopRunner
from tasks import Board

LEFT_AFTER_S = 3.0  # what ends by itself needs a moment: a thread that was told to, a process that was killed
BLAMED: "weakref.WeakSet[object]" = weakref.WeakSet()  # found before: the next test is not to blame


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
def main_stays_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what AppTest does: it makes the page the main module, which every worker process would then import."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail the test that leaves a thread, a child process (zombies are some) or a task on any loop."""
    before = {*threading.enumerate(), *child_processes()}
    yield
    deadline = time.monotonic() + LEFT_AFTER_S
    while left := [found for found in what_lives() if found not in before]:
        if time.monotonic() > deadline:
            BLAMED.update(left)
            pytest.fail(f"the test left this behind: {left}")
        left.clear()  # else this holds it fast itself
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


def child_processes() -> list[psutil.Process]:
    """List the child processes but for the browser's: it serves many tests, and starts helpers whenever it likes."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if not child.name().startswith("chrom"):
                found.append(child)
    return found


def what_lives() -> list[object]:
    """List the threads, the child processes, and the unfinished tasks of loops that no thread runs any more."""
    tasks = [found for found in gc.get_objects() if issubclass(type(found), asyncio.Task)]
    left = [task for task in tasks if not task.done() and not task.get_loop().is_running()]
    return [*threading.enumerate(), *child_processes(), *(task for task in left if task not in BLAMED)]


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait for the condition to become true, or fail."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.005)
