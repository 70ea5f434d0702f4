"""What the board gives to jobs of one's own: options, results, what they print, turns, threads, and one await."""

import asyncio
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable
from enum import Enum, StrEnum
from functools import partial
from typing import Any, Literal

import pytest
from anyio import to_thread

from conftest import wait_until
from loop_runner import LoopRunner
from tasks import (
    ENDED,
    LOG_LINES,
    LOG_WIDTH,
    Board,
    Counter,
    Job,
    Option,
    State,
    at_most,
    count,
    in_thread,
    options_of,
)


def state_of(board: Board, id: int) -> State:
    return board.detail(id).row.state


def states_of(board: Board, ids: Iterable[int]) -> list[str]:
    return [str(state_of(board, id)) for id in ids]


def states(board: Board) -> dict[State, int]:
    """Count the counters in each state, leaving out the zeros."""
    return {state: n for state, n in board.totals().states.items() if n}


def wait_for(board: Board, state: State, *ids: int) -> None:
    wait_until(lambda: all(state_of(board, id) == state for id in ids))


def run(board: Board, job: Job, **options: object) -> int:
    """Run a job to its end."""
    [id] = board.start(job, name="mine", options=options)
    wait_until(lambda: state_of(board, id) in ENDED)
    return id


def texts(board: Board, id: int) -> list[str]:
    """List what a job itself wrote to its log."""
    return [text for _, text in board.detail(id).log][1:-1]


# Options


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


async def choosy(
    counter: Counter,
    *,
    whole: int,
    real: float = 0.5,
    text: str = "x",
    yes: bool = False,
    mode: Literal["fast", "slow"] = "fast",
    level: Literal[1, 2] = 1,
    color: Color = Color.RED,
    size: Size = Size.LARGE,
) -> list[object]:
    """Tell what it was given."""
    return [whole, real, text, yes, mode, level, color.name, size.name]


def test_the_options_of_a_job_are_its_annotated_keyword_arguments() -> None:
    assert options_of(choosy) == (
        Option("whole", int, None, True),
        Option("real", float, 0.5, False),
        Option("text", str, "x", False),
        Option("yes", bool, False, False),
        Option("mode", object, "fast", False, ("fast", "slow")),
        Option("level", object, 1, False, (1, 2)),
        Option("color", object, Color.RED, False, (Color.RED, Color.BLUE)),
        Option("size", object, Size.LARGE, False, (Size.SMALL, Size.LARGE)),
    )
    assert options_of(count) == ()


def test_a_job_is_given_its_options_and_the_defaults_of_the_others(board: Board) -> None:
    given: dict[str, object] = {"whole": 3, "yes": True, "mode": "slow", "color": Color.BLUE}
    id = run(board, choosy, **given)
    assert board.detail(id).options == given
    assert state_of(board, id) == State.DONE
    assert str(board.detail(id).result).startswith("[3, 0.5, 'x', True, 'slow', 1, ")


def test_a_whole_number_will_do_for_a_real_one(board: Board) -> None:
    id = run(board, choosy, whole=1, real=2)
    assert state_of(board, id) == State.DONE


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"whole": 1.5}, "whole must be int"),
        ({"whole": "1"}, "whole must be int"),
        ({"whole": True}, "whole must be int"),
        ({"whole": None}, "whole must be int"),
        ({"whole": 1, "real": "much"}, "real must be float"),
        ({"whole": 1, "real": math.nan}, "real must be float"),
        ({"whole": 1, "real": math.inf}, "real must be float"),
        ({"whole": 1, "real": 10**400}, "real must be float"),
        ({"whole": 1, "text": 1}, "text must be str"),
        ({"whole": 1, "yes": 1}, "yes must be bool"),
        ({"whole": 1, "mode": "wild"}, "mode must be fast, slow"),
        ({"whole": 1, "level": 3}, "level must be 1, 2"),
        ({"whole": 1, "color": "green"}, "color must be "),
        ({"whole": 1, "speed": 1}, "speed is no option of this job: it takes whole, real"),
    ],
)
def test_a_wrong_option_is_refused_in_words_and_nothing_starts(
    board: Board, wrong: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        board.start(choosy, name="mine", n=5, options=wrong)
    assert states(board) == {}


def test_a_job_without_options_is_given_none(board: Board) -> None:
    with pytest.raises(ValueError, match="whole is no option of this job: it takes none"):
        board.start(count, name="mine", options={"whole": 1})
    assert states(board) == {}


async def wants_a_list(counter: Counter, *, names: list[str]) -> None: ...


async def wants_perhaps(counter: Counter, *, limit: int | None = None) -> None: ...


@pytest.mark.parametrize("job", [wants_a_list, wants_perhaps])
def test_an_option_that_no_form_can_ask_for_is_refused(job: Job) -> None:
    with pytest.raises(TypeError, match="must be annotated int, float, str, bool, a Literal or an Enum"):
        options_of(job)


def test_options_are_kept_over_a_restart(board: Board) -> None:
    id = run(board, choosy, whole=7)
    before = board.detail(id)
    board.restart([id])
    wait_for(board, State.DONE, id)
    after = board.detail(id)
    assert (after.options, after.result) == (before.options, before.result) == ({"whole": 7}, before.result)


def test_a_partial_job_keeps_what_it_was_given_and_takes_the_rest(board: Board) -> None:
    async def greet(words: str, counter: Counter, *, name: str, times: int = 1) -> str:
        return f"{words} {name}" * times

    job = partial(greet, "hello", times=2)
    assert [(option.name, option.default) for option in options_of(job)] == [("name", None), ("times", 2)]
    assert board.detail(run(board, job, name="you")).result == "'hello youhello you'"


@pytest.mark.parametrize("wrap", [partial(at_most, 2), partial(partial), lambda job: at_most(2, partial(job))])
def test_the_options_show_through_all_that_wraps_a_job(wrap: Callable[[Job], Job]) -> None:
    assert options_of(wrap(choosy)) == options_of(choosy)


def test_the_options_of_a_function_in_a_thread_are_its_own(board: Board) -> None:
    def power(counter: Counter, *, base: int, exponent: int = 2) -> int:
        return int(base**exponent)

    for job in (in_thread(power), at_most(1, in_thread(power)), in_thread(partial(power, exponent=2))):
        assert [option.name for option in options_of(job)] == ["base", "exponent"]
        assert board.detail(run(board, job, base=12)).result == "144"


def test_an_object_that_is_called_can_have_options(board: Board) -> None:
    class Twice:
        async def __call__(self, counter: Counter, *, whole: int = 1) -> int:
            return 2 * whole

    assert options_of(Twice()) == (Option("whole", int, 1, False),)
    assert board.detail(run(board, Twice(), whole=4)).result == "8"


# Results


class Unspeakable:
    def __repr__(self) -> str:
        raise ValueError("no words for it")


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (None, "None"),
        ("good", "'good'"),
        ({"a": 1}, "{'a': 1}"),
        ("x" * 1_000_000, "'xxx"),
        (list(range(1_000_000)), "[0, 1, 2, 3, 4, 5, ...]"),
        (10**5000, ""),
        (Unspeakable(), "<Unspeakable"),
        ([Unspeakable()], "[<Unspeakable"),
    ],
    ids=["nothing", "text", "dict", "huge text", "huge list", "huge number", "unspeakable", "unspeakable inside"],
)
def test_what_a_job_returns_is_kept_and_shown_in_short(board: Board, result: object, shown: str) -> None:
    async def job(counter: Counter) -> object:
        return result

    id = run(board, job)
    assert state_of(board, id) == State.DONE
    found = board.detail(id).result
    assert str(found).startswith(shown)
    assert len(str(found)) < 200
    board.restart([id])
    wait_for(board, State.DONE, id)
    assert str(board.detail(id).result).startswith(shown)


# What a job prints and logs


# The board is made in the test itself, when pytest has put the test's own standard output in place.


async def chatter(counter: Counter, *, words: str) -> None:
    for part in range(50):
        print(words, part)
        await asyncio.sleep(0)


def test_what_a_job_prints_lands_in_its_own_log_and_still_on_standard_output(
    runner: LoopRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    board = Board(runner)
    [one] = board.start(chatter, name="one", options={"words": "first"})
    [two] = board.start(chatter, name="two", options={"words": "second"})
    print("from outside")
    wait_for(board, State.DONE, one, two)
    assert texts(board, one) == [f"first {part}" for part in range(50)]
    assert texts(board, two) == [f"second {part}" for part in range(50)]
    printed = capsys.readouterr().out
    assert all(line in printed.splitlines() for line in ("from outside", "first 49", "second 0"))
    assert len(printed.splitlines()) == 101


def test_a_job_that_prints_in_a_worker_thread_or_a_child_task_is_heard(runner: LoopRunner) -> None:
    board = Board(runner)

    async def child() -> None:
        print("from a child")

    async def job(counter: Counter) -> None:
        await to_thread.run_sync(print, "from a thread")
        await asyncio.create_task(child())

    def blocking(counter: Counter) -> None:
        print("from a job in a thread")

    assert texts(board, run(board, job)) == ["from a thread", "from a child"]
    assert texts(board, run(board, in_thread(blocking))) == ["from a job in a thread"]


def test_other_threads_are_not_heard(runner: LoopRunner) -> None:
    board = Board(runner)
    said = threading.Event()

    async def job(counter: Counter) -> None:
        await to_thread.run_sync(said.wait, 20)

    [id] = board.start(job, name="quiet")
    wait_for(board, State.RUNNING, id)
    thread = threading.Thread(target=print, args=("from elsewhere",))
    thread.start()
    thread.join()
    logging.getLogger("elsewhere").warning("from elsewhere")
    said.set()
    wait_for(board, State.DONE, id)
    assert texts(board, id) == []


def test_a_line_is_logged_when_it_is_whole_and_the_rest_at_the_end(runner: LoopRunner) -> None:
    board = Board(runner)

    async def job(counter: Counter) -> None:
        for part in ("a", "b\nc", "", "\n\n", "d"):
            print(part, end="")
            await asyncio.sleep(0)

    assert texts(board, run(board, job)) == ["ab", "c", "", "d"]


def test_a_million_lines_and_an_endless_one_stay_short(runner: LoopRunner, capsys: pytest.CaptureFixture[str]) -> None:
    board = Board(runner)

    async def job(counter: Counter) -> None:
        print("line\n" * 1_000_000, end="")
        for _ in range(100):
            print("x" * 10_000, end="")

    lines = texts(board, run(board, job))
    assert len(lines) <= LOG_LINES
    assert lines[-1] == "x" * LOG_WIDTH
    assert lines[0] == "line"


def test_what_a_job_logs_lands_in_its_own_log_with_its_level(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    async def job(counter: Counter, *, words: str) -> None:
        logging.getLogger("mine").warning("%s and %d", words, 1)
        logging.getLogger("mine").debug("too low to be made")
        await to_thread.run_sync(logging.getLogger("mine").error, "in a thread")

    ids = [run(board, job, words=words) for words in ("first", "second")]
    assert [texts(board, id) for id in ids] == [
        ["WARNING: first and 1", "ERROR: in a thread"],
        ["WARNING: second and 1", "ERROR: in a thread"],
    ]
    assert "first and 1" in caplog.text


def test_a_log_call_with_wrong_arguments_harms_no_job(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger = logging.Logger("of its own")
    logger.addHandler(logging.StreamHandler(sys.stderr))

    async def job(counter: Counter) -> None:
        logger.warning("%d", "no number")

    id = run(board, job)
    assert (state_of(board, id), texts(board, id)) == (State.DONE, [])


# Turns


class Turns:
    """A job of which at most so many run, and that tells who began; each ends when it is let."""

    def __init__(self, at_once: int) -> None:
        self.began: list[str] = []
        self.may_end: set[str] = set()
        self.may_fail: set[str] = set()
        self.job = at_most(at_once, self.wait)

    async def wait(self, counter: Counter) -> None:
        self.began.append(counter.name)
        counter.add()
        while counter.name not in self.may_end:
            if counter.name in self.may_fail:
                raise RuntimeError("its turn ends badly")
            await asyncio.sleep(0.005)


def test_at_most_so_many_run_and_the_rest_begin_in_order_whatever_ends(board: Board) -> None:
    turns = Turns(2)
    ids = board.start(turns.job, name="c", n=6)
    wait_until(lambda: turns.began == ["c 1", "c 2"])
    assert states_of(board, ids) == ["running"] * 2 + ["queued"] * 4
    assert states(board) == {State.RUNNING: 2, State.QUEUED: 4}
    turns.may_end.add("c 2")
    wait_until(lambda: turns.began[2:] == ["c 3"])
    turns.may_fail.add("c 1")
    wait_until(lambda: turns.began[3:] == ["c 4"])
    board.stop([ids[2]])
    wait_until(lambda: turns.began[4:] == ["c 5"])
    expected = ["failed", "done", "stopped", "running", "running", "queued"]
    wait_until(lambda: states_of(board, ids) == expected)
    assert [row.state for row in board.page().rows] == expected
    turns.may_end |= {"c 4", "c 5", "c 6"}
    wait_for(board, State.DONE, *ids[3:])
    assert turns.began == [f"c {number}" for number in range(1, 7)]
    assert states(board) == {State.DONE: 4, State.FAILED: 1, State.STOPPED: 1}


def test_a_queued_counter_stops_at_once_never_runs_and_keeps_nobody_waiting(board: Board) -> None:
    turns = Turns(1)
    ids = board.start(turns.job, name="c", n=4)
    wait_until(lambda: turns.began == ["c 1"])
    assert board.stop(ids[1:3]) == 2
    assert states_of(board, ids) == ["running", "stopped", "stopped", "queued"]
    turns.may_end |= {"c 1", "c 4"}
    wait_for(board, State.DONE, ids[0], ids[3])
    assert turns.began == ["c 1", "c 4"]


def test_a_queued_counter_can_be_stopped_and_removed_before_the_loop_hears_of_it(board: Board) -> None:
    turns = Turns(1)
    held, free = threading.Event(), threading.Event()

    async def block(counter: Counter) -> None:
        held.set()
        free.wait(20)

    board.start(block, name="blocks the loop")
    assert held.wait(20)
    ids = board.start(turns.job, name="c", n=3)
    board.stop(ids[:1])
    board.remove(ids[:1])
    free.set()
    turns.may_end |= {"c 2", "c 3"}
    wait_for(board, State.DONE, *ids[1:])
    assert turns.began == ["c 2", "c 3"]


def test_a_restarted_counter_waits_for_a_turn_behind_the_others(board: Board) -> None:
    turns = Turns(1)
    ids = board.start(turns.job, name="c", n=3)
    wait_until(lambda: turns.began == ["c 1"])
    board.stop([ids[1]])
    assert board.restart(ids) == 1
    assert states_of(board, ids) == ["running", "queued", "queued"]
    turns.may_end |= {"c 1", "c 2", "c 3"}
    wait_for(board, State.DONE, *ids)
    assert turns.began == ["c 1", "c 3", "c 2"]
    assert board.restart([ids[0]]) == 1
    wait_for(board, State.DONE, ids[0])
    assert turns.began[3:] == ["c 1"]


def test_queued_counters_take_their_place_on_the_board(runner: LoopRunner) -> None:
    board = Board(runner, max_active=3)
    turns = Turns(1)
    ids = board.start(turns.job, name="c", n=3)
    with pytest.raises(ValueError, match="no room for 1 more"):
        board.start(count, name="one more")
    board.stop([ids[2]])
    [id] = board.start(count, name="one more")
    wait_for(board, State.RUNNING, id)


def test_two_jobs_do_not_share_their_turns(board: Board) -> None:
    async def other(counter: Counter) -> None:
        await count(counter)

    turns = Turns(1)
    one = board.start(turns.job, name="one", n=2)
    two = board.start(at_most(1, partial(count)), name="two", n=2)
    three = board.start(at_most(2, partial(other)), name="three", n=3)
    ids = [*one, *two, *three]
    wait_until(lambda: states_of(board, ids) == ["running", "queued"] * 2 + ["running", "running", "queued"])


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at_most needs a whole number from 1, got 0"):
        at_most(0, count)


def test_the_end_of_the_loop_stops_the_queued_too() -> None:
    board = Board(LoopRunner())
    turns = Turns(1)
    ids = board.start(turns.job, name="c", n=100)
    wait_until(lambda: turns.began == ["c 1"])
    assert board.runner.close(timeout_s=20) == ()
    assert states_of(board, ids) == ["stopped"] * 100
    assert turns.began == ["c 1"]


# Blocking functions


def test_a_function_in_a_thread_that_looks_is_ended_by_a_stop_and_its_result_kept(board: Board) -> None:
    def job(counter: Counter) -> str:
        while not counter.stopping:
            counter.add()
            time.sleep(0.005)
        return "cleaned up"

    [id] = board.start(in_thread(job), name="looks")
    wait_until(lambda: board.detail(id).row.value > 3)
    board.stop([id])
    wait_for(board, State.STOPPED, id)
    assert board.detail(id).result == "'cleaned up'"


def test_a_function_in_a_thread_that_ignores_a_stop_is_stuck_until_it_ends_however_often_it_is_asked(
    runner: LoopRunner,
) -> None:
    board = Board(runner, stop_timeout_s=0.05)
    began, may_end = threading.Event(), threading.Event()

    def job(counter: Counter) -> None:
        began.set()
        may_end.wait(30)

    [id] = board.start(in_thread(job), name="deaf")
    assert began.wait(20)
    for _ in range(3):
        board.stop([id])
        wait_for(board, State.STUCK, id)
        runner.run(asyncio.sleep(0.05))  # in which the loop has heard of the stop
        assert state_of(board, id) == State.STUCK
    may_end.set()
    wait_for(board, State.STOPPED, id)


@pytest.mark.parametrize("when", ["by itself", "after a stop"])
def test_an_error_of_a_function_in_a_thread_fails_its_counter(board: Board, when: str) -> None:
    began = threading.Event()

    def job(counter: Counter) -> None:
        began.set()
        while when == "after a stop" and not counter.stopping:
            time.sleep(0.005)
        raise OSError("the disk is full")

    [id] = board.start(in_thread(job), name="unlucky")
    if when == "after a stop":
        assert began.wait(20)
        board.stop([id])
    wait_for(board, State.FAILED, id)
    found = board.detail(id)
    assert found.row.error == "OSError: the disk is full"
    assert "in job" in str(found.traceback)


def test_a_hundred_functions_run_in_threads_at_once(board: Board) -> None:
    barrier = threading.Barrier(100)
    ids = board.start(in_thread(lambda counter: barrier.wait(20)), name="together", n=100)
    wait_for(board, State.DONE, *ids)


# One await


def test_while_waiting_is_called_in_the_waiting_thread_until_the_result_is_there(runner: LoopRunner) -> None:
    calls: list[threading.Thread] = []

    async def until_asked_often() -> int:
        for _ in range(4000):
            if len(calls) >= 4:
                break
            await asyncio.sleep(0.005)
        return len(calls)

    began = time.monotonic()
    assert runner.run(until_asked_often(), while_waiting=lambda: calls.append(threading.current_thread())) >= 4
    assert time.monotonic() - began > 0.3  # not in a hot loop
    assert set(calls) == {threading.current_thread()}


class Endless:
    """A coroutine that waits for ever, and tells when it was cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    async def __call__(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.mark.parametrize("error", [RuntimeError("a click"), KeyboardInterrupt(), SystemExit()], ids=repr)
def test_what_is_raised_while_waiting_ends_the_wait_and_cancels_the_coroutine(
    runner: LoopRunner, error: BaseException
) -> None:
    endless = Endless()

    def click() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        runner.run(endless(), while_waiting=click)
    assert raised.value is error
    assert endless.cancelled.wait(20)
    assert runner.run(asyncio.sleep(0, "it goes on")) == "it goes on"


@pytest.mark.parametrize("while_waiting", [None, lambda: None], ids=["plain", "while waiting"])
def test_a_timeout_ends_the_wait_and_cancels_the_coroutine(
    runner: LoopRunner, while_waiting: Callable[[], object] | None
) -> None:
    endless = Endless()
    with pytest.raises(TimeoutError, match=r"gave no result in 0\.05 s and was cancelled"):
        runner.run(endless(), timeout_s=0.05, while_waiting=while_waiting)
    assert endless.cancelled.wait(20)


@pytest.mark.parametrize("while_waiting", [None, lambda: None], ids=["plain", "while waiting"])
@pytest.mark.parametrize("error", [TimeoutError("of its own"), ValueError("bad")], ids=repr)
def test_an_error_of_the_coroutine_is_passed_on_be_it_a_timeout(
    runner: LoopRunner, error: Exception, while_waiting: Callable[[], object] | None
) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.15)
        raise error

    with pytest.raises(type(error), match=str(error)):
        runner.run(fail(), timeout_s=20, while_waiting=while_waiting)


def test_a_client_made_on_the_loop_serves_many_waits(runner: LoopRunner) -> None:
    """As a client in a cached resource does over reruns: each wait comes from another thread, the loop is the same."""

    class Client:
        async def __aenter__(self) -> "Client":
            self.lock = asyncio.Lock()
            await self.lock.acquire()  # which binds it to the loop once somebody else waits for it
            return self

        async def get(self) -> asyncio.AbstractEventLoop:
            waits = asyncio.ensure_future(self.lock.acquire())
            await asyncio.sleep(0)
            self.lock.release()
            await waits
            return asyncio.get_running_loop()

    client = runner.run(Client().__aenter__())
    answers: list[Any] = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: answers.append(runner.run(client.get())))
        thread.start()
        thread.join(20)
    assert len(answers) == 3
    assert len(set(answers)) == 1
