"""One asyncio event loop in one daemon thread, for a program that is not asyncio itself. Standard library only.

Copy this file as it is. Make one runner for the whole process and keep it (in Streamlit: in a cached resource);
then every thread can hand coroutines to its loop, and an async client made on the loop stays usable for as long as
the runner lives:

    runner = LoopRunner()
    answer = runner.run(fetch(url), timeout_s=10)  # waits for the result
    future = runner.submit(poll(url))              # does not wait; future.cancel() stops it
    runner.close()                                 # cancels what still runs and waits for its clean-up

The loop has one root task that lives as long as the loop. anyio needs that: its worker processes belong to the root
task of whoever used them first.
"""

import asyncio
import concurrent.futures
import logging
import math
import sys
import sysconfig
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

PING_EVERY_S = 0.25  # four pings a second cost about 0.05 % of a core
BLOCKED_AFTER_S = 0.1  # a ping not answered for so long means that something blocks the loop
LAG_WINDOW_S = 60.0
BLOCKS_KEPT = 5

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Block:
    """A time when the loop did not answer: which task held it, where it stood, and for how long (so far)."""

    who: str
    where: str
    seconds: float


@dataclass(frozen=True, slots=True)
class LoopHealth:
    """How late the loop answers, in seconds, over the last minute, and what blocks it now (None: nothing)."""

    lag_p50_s: float
    lag_p99_s: float
    lag_history_s: tuple[float, ...]  # the worst of each second, oldest first
    blocked: Block | None
    recent_blocks: tuple[Block, ...]  # those that are over, oldest first


class LoopRunner:
    """An asyncio event loop that runs in its own daemon thread until `close`. Every method is thread-safe."""

    def __init__(self, *, name: str = "event-loop") -> None:
        self.name = name
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_report)
        self._closing = asyncio.Event()
        self._closed = False
        self._deadline = 0.0
        self._left: tuple[str, ...] = ()
        self._at_close: list[Callable[[], Awaitable[None]]] = []
        self._futures: set[concurrent.futures.Future[Any]] = set()
        self._lock = threading.Lock()  # a submit comes before the close, or is refused: never between
        self._pings: deque[tuple[float, float]] = deque(maxlen=int(LAG_WINDOW_S / PING_EVERY_S))  # (when, lag)
        self._worst: dict[int, float] = {}  # the longest lag of each second
        self._blocked: tuple[float, str, str] | None = None  # (since, who, where)
        self._blocks: deque[Block] = deque(maxlen=BLOCKS_KEPT)
        self._ended = threading.Event()
        self._root = self._loop.create_task(self._main(), name=f"{name} root task")
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._watch = threading.Thread(target=self._watch_loop, name=f"{name}-watch", daemon=True)
        self._thread.start()
        self._watch.start()

    @property
    def closed(self) -> bool:
        """True from the moment `close` was first called: nothing more can be submitted."""
        return self._closed

    def submit(self, coro: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Schedule the coroutine on the loop; return its future at once.

        Cancelling the future cancels the coroutine. The future then reads as cancelled immediately, while the
        coroutine may still be cleaning up. An error of the coroutine waits in the future: somebody must read it.

        Raises:
            RuntimeError: the runner is closed; the coroutine is closed too, so that it does not warn.
        """
        with self._lock:
            if not self._closed:
                future = asyncio.run_coroutine_threadsafe(coro, self._loop)
                self._futures.add(future)
                future.add_done_callback(self._futures.discard)
                return future
        coro.close()
        raise RuntimeError(f"the loop runner {self.name!r} is closed: make a new LoopRunner")

    def run(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        timeout_s: float | None = None,
        while_waiting: Callable[[], object] | None = None,
    ) -> T:
        """Run the coroutine on the loop and return its result, or raise what it raised.

        `while_waiting` is called ten times a second in the waiting thread. When the wait ends early, by the timeout,
        by what `while_waiting` raises or by Ctrl+C, the coroutine is cancelled. In a Streamlit script give it
        `st.empty().empty`: then a click ends the wait, because that is where Streamlit starts the next run.

        Raises:
            TimeoutError: there is no result after `timeout_s` seconds.
            RuntimeError: called on the loop's own thread, or the runner is closed.
        """
        if threading.current_thread() is self._thread:
            coro.close()
            raise RuntimeError(
                "LoopRunner.run was called on its own loop, which would wait for itself: await the coroutine instead"
            )
        future = self.submit(coro)
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        try:
            while (left_s := deadline - time.monotonic()) > 0:
                try:
                    return future.result(min(left_s, 0.1 if while_waiting else threading.TIMEOUT_MAX))
                except TimeoutError:
                    if future.done():
                        return future.result()
                if while_waiting:
                    while_waiting()
            raise TimeoutError(f"{coro!r} gave no result in {timeout_s} s and was cancelled")
        finally:
            future.cancel()

    def at_close(self, clean_up: Callable[[], Awaitable[None]]) -> None:
        """Have `clean_up` awaited on the loop when it closes, before what still runs there is cancelled."""
        self._at_close.append(clean_up)

    def health(self) -> LoopHealth:
        """Tell how late the loop answers and what blocks it; never waits for the loop."""
        now = time.monotonic()
        lags = [lag for when, lag in list(self._pings) if when > now - LAG_WINDOW_S]
        worst = {second: lag for second, lag in self._worst.copy().items() if second > now - LAG_WINDOW_S}
        blocked = self._blocked
        if blocked:
            lags.append(now - blocked[0])
            worst[int(now)] = max(now - blocked[0], worst.get(int(now), 0.0))
        lags = sorted(lags) or [0.0]
        return LoopHealth(
            lag_p50_s=lags[len(lags) // 2],
            lag_p99_s=lags[min(len(lags) - 1, int(len(lags) * 0.99))],
            lag_history_s=tuple(worst.values()),
            blocked=Block(blocked[1], blocked[2], now - blocked[0]) if blocked else None,
            recent_blocks=tuple(self._blocks),
        )

    def close(self, *, timeout_s: float = 5.0, wait: bool = True) -> tuple[str, ...]:
        """Cancel everything on the loop, wait for its clean-up, end the thread; name what did not end in time.

        Can be called again, and from any thread. With `wait=False`, and always on the loop's own thread, it returns
        at once with no names while the loop finishes by itself within `timeout_s` seconds.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                self._deadline = time.monotonic() + timeout_s
                self._loop.call_soon_threadsafe(self._closing.set)
        if not wait or threading.current_thread() is self._thread:
            return ()
        self._thread.join(max(0.0, self._deadline - time.monotonic()) + 0.7)
        if self._thread.is_alive():  # something blocks the loop, so that it cannot even be told to stop
            return self._unended(asyncio.all_tasks(self._loop))
        self._watch.join()
        return self._left

    def _serve(self) -> None:
        while not self._root.done():
            try:
                self._loop.run_until_complete(self._root)
            except BaseException as error:
                # asyncio lets SystemExit and KeyboardInterrupt of any task, and loop.stop(), end the whole loop.
                _log.warning("something on the loop %r tried to end it: %r; it goes on", self.name, error)
        self._ended.set()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        for future in list(self._futures):
            future.cancel()  # of a coroutine that did not end: let go of whoever waits for it
        self._loop.close()

    async def _main(self) -> None:
        while not self._closing.is_set():
            with suppress(asyncio.CancelledError):  # by a task that cancels all others: only `close` ends the loop
                await self._closing.wait()
        for clean_up in self._at_close:
            try:
                await asyncio.wait_for(clean_up(), max(0.0, self._deadline - time.monotonic()))
            except TimeoutError:
                pass  # what did not end is named below
            except (Exception, asyncio.CancelledError, SystemExit, KeyboardInterrupt):
                _log.exception("clean-up of the loop %r failed", self.name)
        tasks = asyncio.all_tasks() - {self._root}
        for task in tasks:
            task.cancel()
        # Twice, for clean-up that started tasks of its own, and with a moment for those that end at once.
        for _ in range(2):
            if tasks:
                await asyncio.wait(tasks, timeout=max(0.1, self._deadline - time.monotonic()))
            tasks = asyncio.all_tasks() - {self._root}
        self._left = self._unended(tasks)

    def _unended(self, tasks: set["asyncio.Task[Any]"]) -> tuple[str, ...]:
        return tuple(sorted(_name(task) for task in tasks if task is not self._root))

    def _watch_loop(self) -> None:
        """Ping the loop for ever; while an answer is late, look at what its thread is doing."""
        while not self._ended.wait(PING_EVERY_S):
            sent = time.monotonic()
            answered = threading.Event()
            try:
                self._loop.call_soon_threadsafe(self._pong, sent, answered)
            except RuntimeError:  # the loop was closed
                return
            while not answered.wait(BLOCKED_AFTER_S) and not self._ended.is_set():
                self._look(sent)
            if self._blocked:
                block = Block(*self._blocked[1:], time.monotonic() - sent)
                self._blocked = None
                self._blocks.append(block)
                _log.warning(
                    "%s blocked the loop %r for %.1f s at %s", block.who, self.name, block.seconds, block.where
                )

    def _pong(self, sent: float, answered: threading.Event) -> None:
        now = time.monotonic()
        self._pings.append((now, now - sent))
        self._worst[int(now)] = max(now - sent, self._worst.get(int(now), 0.0))
        while len(self._worst) > LAG_WINDOW_S:
            del self._worst[next(iter(self._worst))]
        answered.set()

    def _look(self, since: float) -> None:
        task = asyncio.current_task(self._loop)
        frames = []
        frame = sys._current_frames().get(self._thread.ident or 0)
        while frame:
            frames.append(frame)
            frame = frame.f_back
        if frames and frames[0].f_code.co_name != "select":  # else it waits for events: the machine is slow, not it
            self._blocked = (since, _name(task) if task else "a callback", place(frames))


def place(frames: Sequence[FrameType]) -> str:
    """Say where code stands, as `file.py:12 in function`: the first of the frames that is not a library's."""
    if not frames:
        return "an unknown place"
    frame = next((frame for frame in frames if not frame.f_code.co_filename.startswith(_LIBRARIES)), frames[0])
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"


def _name(task: "asyncio.Task[Any]") -> str:
    name = task.get_name()
    return getattr(task.get_coro(), "__qualname__", name) if name.startswith("Task-") else name


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody else hears of, in one line for a task that was given up at the close."""
    if "was destroyed but it is pending" in context.get("message", ""):
        _log.debug("given up at the close: %s", context.get("task"))
    else:
        loop.default_exception_handler(context)
