"""What holds whatever happens to the server: edits, cleared caches, signals, kills, blocked code."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.sessions import Session
from serving import Server, Visitor, wait_until

JOBS = '''

async def cleans_up(counter):
    """Clean up for half a second, sometimes in a thread, and leave a mark."""
    try:
        await count(counter)
    finally:
        await asyncio.sleep(0.5)
        if counter.id % 50 == 0:
            await to_thread.run_sync(time.sleep, 0.1)
        with open("cleaned", "ab") as mark:
            mark.write(b"x")


async def deaf(counter):
    """Swallow every cancellation."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            counter.log("what?")


async def blocks(counter):
    """Hold up the whole loop for two seconds."""
    await counter.beat()
    time.sleep(2)
    await count(counter)


JOBS |= {"Cleans up": cleans_up, "Deaf": deaf, "Blocks": blocks}
'''
LIVE = "    live(the_board())\n"  # what the page ends with
VALUES = "[r.value for r in board.page().rows]"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.edit("tasks.py", lambda text: text + JOBS)
    yield server
    server.kill()


def counting(server: Server) -> bool:
    """Tell whether every counter on the board counts on."""
    before = server.look(VALUES)
    wait_until(lambda: all(b > a for a, b in zip(before, server.look(VALUES), strict=True)))
    return True


def cleaned(server: Server) -> int:
    """Count the marks that finished clean-ups left."""
    mark = server.folder / "cleaned"
    return mark.stat().st_size if mark.exists() else 0


def reload(server: Server, visitor: Visitor, name: str, old: str, new: str) -> None:
    """Edit a file, and rerun the page until the server has noticed."""
    server.edit(name, lambda text: text.replace(old, new, 1))
    os.utime(server.folder / name)
    if "--server.fileWatcherType=none" not in server.flags:
        loaded = server.look("sys.modules['tasks']._LOADED_AT")

        def noticed() -> bool:
            visitor.ask()
            return bool(server.look("sys.modules['tasks']._LOADED_AT") != loaded)

        wait_until(noticed, every_s=0.3)
    visitor.ask()


@pytest.mark.parametrize("watcher", ["auto", "none"])
def test_edits_lose_nothing_and_new_code_runs(tmp_path: Path, watcher: str) -> None:
    server = Server(tmp_path, f"--server.fileWatcherType={watcher}").start()
    try:
        visitor = Visitor(server)
        for job in ("On the loop", "In a thread", "In a process"):
            visitor.click("start", new_job=job, new_n=2, new_interval_s=0.1)
        for name, old, new in (
            ("app.py", "\n\n", "\n# a comment\n\n"),
            ("loop_runner.py", "\n\n", "\n# a comment\n\n"),
            ("tasks.py", "\n\n", "\n# a comment\n\n"),
            ("app.py", "# The loop is made once", "# more\n\n# lines\n\n# The loop is made once"),
            ("app.py", "    return shared_board()", "    board = shared_board()\n    return board"),
        ):
            reload(server, visitor, name, old, new)
            assert server.loop_threads() == ["counters"]
            assert server.states() == {"running": 6}
            assert counting(server)
        if watcher == "auto":  # without the watcher Streamlit never loads a module again
            assert "runs code from before an edit" in visitor.text()
            job = "\n\nasync def hundreds(counter: Counter) -> None:\n    counter.add(100 * await counter.beat())\n"
            server.edit("tasks.py", lambda text: text + job + '\n\nJOBS["Hundreds"] = hundreds\n')
            method = "    # Commands\n\n    def hello(self) -> str:\n        return f'hello {len(self._records)}'\n"
            server.edit("tasks.py", lambda text: text.replace("    # Commands\n", method))
            reload(server, visitor, "app.py", LIVE, LIVE + "    st.write(the_board().hello())\n")
            assert "hello 6" in visitor.text()
            visitor.click("start", new_job="Hundreds", new_n=1, new_name="new")
            wait_until(lambda: server.look("[r.value for r in board.page(match='new').rows]") == [100])
            assert server.loop_threads() == ["counters"]
    finally:
        server.kill()


def test_a_restarted_counter_runs_the_edited_code(server: Server) -> None:
    visitor = Visitor(server.start())
    visitor.click("start", new_interval_s=0.1)
    reload(server, visitor, "tasks.py", "counter.add(await counter.beat())", "counter.add(1000 * await counter.beat())")
    assert server.look(VALUES)[0] < 1000
    assert server.look("[r.outdated for r in board.page().rows]") == [True]
    visitor.click("stop_all")
    wait_until(lambda: server.states() == {"stopped": 1})
    visitor.ask()
    visitor.click("restart_1")
    wait_until(lambda: server.look(VALUES)[0] >= 1000)
    assert server.look("[r.outdated for r in board.page().rows]") == [False]


def test_twenty_sessions_racing_make_one_loop(server: Server) -> None:
    server.start()
    assert server.look("__import__('gc').get_freeze_count()") > 50_000  # what the server has loaded

    def race() -> list[Visitor]:
        visitors: list[Visitor] = []
        threads = [threading.Thread(target=lambda: visitors.append(Visitor(server))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return visitors

    assert len(race()) == 20
    assert server.loop_threads() == ["counters"]
    server.look("__import__('streamlit').cache_resource.clear()")
    assert len(race()) == 20
    wait_until(lambda: server.loop_threads() == ["counters"])


def test_a_page_that_only_refreshes_gets_the_board_of_now_when_the_cache_was_cleared(server: Server) -> None:
    async def refresh_after_clearing() -> list[str]:
        visitor = Session(server.start().url)
        await visitor.open()
        await asyncio.to_thread(server.look, "__import__('streamlit').cache_resource.clear()")
        await visitor.run(visitor.fragments[-1])
        await visitor.close()
        return visitor.errors

    assert asyncio.run(refresh_after_clearing()) == []
    assert server.look("not board.runner.closed")


def test_clearing_the_cache_ends_all_with_their_clean_up_and_a_fresh_board_comes_up(server: Server) -> None:
    # On a busy machine a thousand clean-ups can take longer than the five seconds of the product.
    server.edit("loop_runner.py", lambda text: text.replace("timeout_s: float = 5.0", "timeout_s: float = 30.0"))
    visitor = Visitor(server.start())
    visitor.click("start", new_job="Cleans up", new_n=1000)
    wait_until(lambda: server.look("board.totals().ticks") >= 1000)
    server.look("sys.modules.__setitem__('old', board)")
    clear = LIVE + "    st.cache_resource.clear()\n"
    server.edit("app.py", lambda text: text.replace(LIVE, clear))
    wait_until(lambda: visitor.ask() and server.look("sys.modules['old'].runner.closed"))  # when the edit was noticed
    assert server.healthy()
    server.edit("app.py", lambda text: text.replace(clear, LIVE))
    wait_until(lambda: visitor.ask() and server.look("not board.runner.closed"))
    assert server.healthy()
    wait_until(lambda: cleaned(server) == 1000)
    wait_until(lambda: server.loop_threads() == ["counters"])
    old = "{str(s): n for s, n in sys.modules['old'].totals().states.items() if n}"
    assert server.look(old) == {"stopped": 1000}
    assert server.states() == {}
    visitor.click("start", new_n=3)
    assert server.states() == {"running": 3}


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_every_clean_up_run_and_names_what_did_not_end(server: Server, sign: int) -> None:
    visitor = Visitor(server.start())
    visitor.click("start", new_job="Cleans up", new_n=1000)
    visitor.click("start", new_job="In a process", new_n=10)
    visitor.click("start", new_job="Deaf", new_n=1, new_name="deaf")
    wait_until(lambda: server.look("board.totals().ticks") >= 1010)
    workers = server.children()
    assert workers
    server.stop(sign, timeout_s=9)
    assert cleaned(server) == 1000
    said = [line for line in server.log.splitlines() if "ended" in line]
    assert said == ["1,010 counters ended; counter 1011 (deaf) did not end in time"]
    for unwanted in ("Traceback", "was destroyed", "never awaited", "never retrieved"):
        assert unwanted not in server.log
    wait_until(lambda: not any(worker.is_running() for worker in workers))


def test_nothing_is_said_at_the_end_when_nothing_ran(server: Server) -> None:
    Visitor(server.start())
    server.stop(signal.SIGINT)
    assert "ended" not in server.log
    assert "Traceback" not in server.log


def test_a_killed_server_leaves_no_process_behind(server: Server) -> None:
    visitor = Visitor(server.start())
    visitor.click("start", new_job="In a process", new_n=20, new_interval_s=0.1)
    wait_until(lambda: server.look("board.totals().ticks") >= 20)
    workers = server.children()
    assert workers
    server.stop(signal.SIGKILL)
    wait_until(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers))


def test_a_killed_worker_fails_at_most_the_additions_under_way(server: Server) -> None:
    visitor = Visitor(server.start())
    visitor.click("start", new_job="In a process", new_n=20, new_interval_s=0.1)
    wait_until(lambda: server.look("board.totals().ticks") >= 20)
    workers = [child for child in server.children() if child.name().startswith("python")]
    for worker in workers:
        worker.kill()
    visitor.click("start", new_job="In a process", new_n=1, new_name="next", new_interval_s=0.1)
    wait_until(lambda: server.look("[r.value for r in board.page(match='next').rows]")[0] >= 3)
    assert server.states().get("failed", 0) <= len(workers)
    running = server.look("[r.id for r in board.page(states=['running']).rows]")
    assert len(running) >= 21 - len(workers)


def test_a_blocked_loop_is_named_while_it_blocks_and_the_page_answers(server: Server) -> None:
    visitor = Visitor(server.start())
    visitor.click("start", new_n=3, new_interval_s=0.1)
    visitor.click("start", new_job="Blocks", new_n=1, new_name="bad *one*", new_interval_s=0.1)
    block = wait_until(
        lambda: server.look("(lambda b: b and [b.who, b.where, b.seconds])(board.runner.health().blocked)")
    )
    assert block[0] == "counter 4 (bad *one*)"
    assert block[1].startswith("tasks.py:")
    assert block[1].endswith("in blocks")
    visitor.click("start", new_n=1, new_name="meanwhile", new_interval_s=0.1)  # the page answers
    assert server.look("board.runner.health().blocked is not None"), "the loop was free again before the click was over"
    assert "has been blocked for" in visitor.text()
    assert "bad *one*" in visitor.text()
    wait_until(lambda: server.look("board.runner.health().blocked is None"))
    visitor.ask()
    assert "The loop was blocked lately (1)" in visitor.text()
    assert server.look("board.runner.health().recent_blocks[0].seconds") > 1.5
    assert counting(server)
    started, rows = server.look("board._metronome and [0, [[r.value, r.started_at] for r in board.page().rows]]")
    now = time.time()
    assert started == 0
    for value, began in rows[:3]:
        assert abs(value - (now - began) / 0.1) < 5  # no beat was lost, and none made up
