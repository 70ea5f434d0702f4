"""The examples against what they are for: sites that misbehave, real processes, growing files, a folder of its own."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import crunch
import follow_file
import httpx
import psutil
import pytest
import watch_sites

from loop_runner import LoopRunner
from serving import ROOT, Server, Visitor, free_port, wait_until
from tasks import Board, Job, State, at_most, in_thread


def state_of(board: Board, id: int) -> State:
    return board.detail(id).row.state


def wait_for(board: Board, state: State, *ids: int) -> None:
    wait_until(lambda: [state_of(board, id) for id in ids] == [state] * len(ids))


def texts(board: Board, id: int) -> list[str]:
    return [text for _, text in board.detail(id).log]


def logged(board: Board, id: int, text: str) -> Callable[[], bool]:
    return lambda: any(text in line for line in texts(board, id))


# Watch sites


class Site(ThreadingHTTPServer):
    """A web server on which most pages misbehave."""

    daemon_threads = False

    def __init__(self) -> None:
        self.visits: list[str] = []
        self.may_answer = threading.Event()
        super().__init__(("127.0.0.1", 0), Answer)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Answer(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        page = self.path.strip("/")
        self.server.visits.append(page)
        if page == "slow":
            self.server.may_answer.wait(30)
        shaky = page == "shaky" and self.server.visits.count("shaky") < 3
        self.send_response(500 if page == "broken" or shaky else 302 if page in ("moved", "circle") else 200)
        if page in ("moved", "circle"):
            self.send_header("Location", "/good" if page == "moved" else "/circle")
        self.end_headers()
        self.wfile.write(b"x" * 1000)

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        yield site
        site.may_answer.set()
        site.shutdown()
        thread.join()


@pytest.fixture
def watch(runner: LoopRunner) -> Job:
    client = httpx.AsyncClient(follow_redirects=True, timeout=None, trust_env=False)
    runner.at_close(client.aclose)
    return partial(watch_sites.watch, client)


def test_each_site_is_told_of_in_its_own_words_and_harms_no_other(board: Board, site: Site, watch: Job) -> None:
    closed = f"http://127.0.0.1:{free_port()}/"
    expected = {
        site.url("good"): "200 OK from http://127.0.0.1",
        site.url("moved"): f"200 OK from {site.url('good')}",
        site.url("broken"): "500 Internal Server Error",
        site.url("circle"): "TooManyRedirects",
        site.url("slow"): "TimeoutError",
        closed: "ConnectError",
        "gopher://old": "UnsupportedProtocol",
    }
    ids = {
        url: board.start(
            watch, name="site", interval_s=0.05, options={"url": url, "timeout_s": 2 if "slow" not in url else 0.2}
        )[0]
        for url in expected
    }
    for url, said in expected.items():
        wait_until(logged(board, ids[url], said))
        assert state_of(board, ids[url]) == State.RUNNING
    for url in (site.url("good"), site.url("moved")):
        wait_until(lambda url=url: board.detail(ids[url]).row.value > 3)  # type: ignore[misc]
    assert all(board.detail(id).row.value == 0 for url, id in ids.items() if not url.endswith(("good", "moved")))
    board.stop(ids.values())
    wait_for(board, State.STOPPED, *ids.values())


def test_an_address_that_is_none_fails_its_own_counter_alone(board: Board, site: Site, watch: Job) -> None:
    [good] = board.start(watch, name="good", interval_s=0.05, options={"url": site.url("good")})
    [bad] = board.start(watch, name="bad", interval_s=0.05, options={"url": "http://a:b:c/"})
    wait_for(board, State.FAILED, bad)
    assert "InvalidURL" in str(board.detail(bad).row.error)
    wait_until(lambda: board.detail(good).row.value > 3)


def test_a_bad_answer_is_asked_for_again_before_the_next_beat(board: Board, site: Site, watch: Job) -> None:
    [id] = board.start(watch, name="shaky", interval_s=3600, target=1, options={"url": site.url("shaky"), "retries": 2})
    wait_for(board, State.DONE, id)
    assert board.detail(id).row.value == 1
    assert site.visits == ["shaky"] * 3


def test_a_site_that_does_not_answer_is_left_at_once_by_a_stop(board: Board, site: Site, watch: Job) -> None:
    [id] = board.start(watch, name="slow", options={"url": site.url("slow"), "timeout_s": 3600.0})
    wait_until(lambda: site.visits == ["slow"])
    board.stop([id])
    wait_for(board, State.STOPPED, id)  # while the site still does not answer


# Crunch


ENDLESS: dict[str, Any] = {"piece": 10**12}


def workers() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def busy(worker: psutil.Process) -> bool:
    """Wait until a worker process has been given its function, whose module loads pyarrow; give True.

    A Stop before that, while it still starts up, can leave it idle: the README tells so under "Limits".
    """
    wait_until(lambda: any("pyarrow" in part.path for part in worker.memory_maps()))
    return True


def test_primes_are_counted_piece_by_piece_and_the_number_is_kept(board: Board) -> None:
    [id] = board.start(crunch.count_primes, name="primes", target=25_000)
    wait_for(board, State.DONE, id)
    found = board.detail(id)
    assert (found.row.value, found.result) == (25_000, "2762")
    pieces = [text for text in texts(board, id) if "primes below" in text]
    assert pieces == ["1,229 primes below 10,000", "2,262 primes below 20,000", "2,762 primes below 25,000"]


def test_a_stop_cuts_an_endless_piece_kills_its_worker_and_lets_the_next_begin(board: Board) -> None:
    job = at_most(2, partial(crunch.count_primes, **ENDLESS))
    ids = list(board.start(job, name="primes", n=3))
    wait_until(lambda: len(workers()) == 2 and all(map(busy, workers())))
    assert [state_of(board, id) for id in ids] == [State.RUNNING, State.RUNNING, State.QUEUED]
    before = set(workers())
    board.stop(ids[:1])
    wait_for(board, State.STOPPED, ids[0])
    wait_for(board, State.RUNNING, ids[2])
    wait_until(lambda: len(before & set(workers())) == 1)
    wait_until(lambda: len(workers()) == 2 and all(map(busy, workers())))
    board.stop(ids)
    wait_for(board, State.STOPPED, *ids)
    wait_until(lambda: workers() == [])


def test_a_worker_that_is_killed_from_outside_fails_its_counter_and_a_restart_has_a_new_one(board: Board) -> None:
    [id] = board.start(partial(crunch.count_primes, **ENDLESS), name="primes")
    wait_until(lambda: len(workers()) == 1 and busy(workers()[0]))
    workers()[0].kill()
    wait_for(board, State.FAILED, id)
    assert "BrokenWorkerProcess" in str(board.detail(id).traceback)
    board.restart([id])
    wait_until(lambda: len(workers()) == 1 and busy(workers()[0]))
    board.stop([id])
    wait_for(board, State.STOPPED, id)


# Follow a file


@pytest.fixture
def growing(tmp_path: Path) -> Path:
    path = tmp_path / "growing.txt"
    path.write_text("old\n")
    return path


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def follow(board: Board, path: Path, *, from_start: bool = True, target: int | None = None) -> int:
    """Follow a file, from a moment that is certain: after its first line was seen, if it has one to see."""
    options = {"path": str(path), "from_start": from_start}
    [id] = board.start(in_thread(follow_file.follow), name="file", target=target, options=options)
    if from_start:
        wait_until(logged(board, id, "old"))
    return id


def test_new_lines_land_in_the_log_whole(board: Board, growing: Path) -> None:
    id = follow(board, growing)
    for text in ("one\n", "two\nthr", "ee\n", "\n", "än\n"):
        append(growing, text)
    wait_until(lambda: board.detail(id).row.value == 6)
    assert texts(board, id)[1:] == ["old", "one", "two", "three", "", "än"]
    board.stop([id])
    wait_for(board, State.STOPPED, id)


def test_a_file_is_followed_from_its_end_unless_told_otherwise(board: Board, growing: Path) -> None:
    id = follow(board, growing, from_start=False)

    def new_line() -> bool:
        append(growing, "new\n")
        return board.detail(id).row.value > 0

    wait_until(new_line)
    assert "old" not in texts(board, id)


def test_a_file_that_was_emptied_is_followed_from_its_start(board: Board, growing: Path) -> None:
    id = follow(board, growing)
    growing.write_text("")
    wait_until(logged(board, id, "shorter"))
    append(growing, "fresh\n")
    wait_until(logged(board, id, "fresh"))


def test_following_ends_with_the_target_and_fails_without_a_file(board: Board, growing: Path) -> None:
    id = follow(board, growing, target=2)
    append(growing, "one\ntwo\n")
    wait_for(board, State.DONE, id)
    assert board.detail(id).row.value == 2
    [id] = board.start(in_thread(follow_file.follow), name="none", options={"path": str(growing / "none")})
    wait_for(board, State.FAILED, id)
    assert "NotADirectoryError" in str(board.detail(id).row.error)


# As people run them


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Give what serves a script, from a folder that holds nothing but the files that are named."""
    server = Server(tmp_path)

    def start(script: str, *files: str) -> Server:
        server.folder = tmp_path / "folder"
        for name in files:
            target = server.folder / Path(name).name if script == Path(script).name else server.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
        command = [sys.executable, "-m", "streamlit", "run", script, "--server.headless=true"]
        options = ["--server.address=127.0.0.1", f"--server.port={server.port}", "--server.enableAgentApi=true"]
        with server.log_file.open("wb") as log:
            server.process = subprocess.Popen(
                [*command, *options],
                cwd=server.folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(tmp_path / "window"), "WINDOW": str(server.window)},
                start_new_session=True,
            )
        wait_until(server.healthy, 30)
        return server

    yield start
    server.kill()


def shows(visitor: Visitor, text: str) -> Callable[[], bool]:
    """Refresh the page and look for a text on it."""
    return lambda: bool(visitor.ask()) and text in visitor.text()


@pytest.mark.parametrize(
    ("name", "job", "option", "said"),
    [
        ("watch_sites", "Watch a site", {"url": "http://127.0.0.1:9"}, "ConnectError"),
        ("crunch", "Count primes", {}, "1,229 primes below 10,000"),
        ("follow_file", "Follow a file", {"path": "app.py", "from_start": True}, "The page of the board"),
    ],
)
def test_an_example_runs_with_one_command_and_ends_cleanly(
    serve: Callable[..., Server], name: str, job: str, option: dict[str, object], said: str
) -> None:
    server = serve(f"examples/{name}.py", f"examples/{name}.py", "app.py", "loop_runner.py", "tasks.py")
    visitor = Visitor(server)
    options = {f"option_{job}_{key}": value for key, value in option.items()}
    visitor.click("start", new_job=job, new_target=10_000 if name == "crunch" else 99, **options)
    visitor.click("open_1")
    wait_until(lambda: said in json_log(server), every_s=0.1)
    children = server.children()
    server.stop()
    assert "Traceback" not in server.log
    wait_until(lambda: not any(child.is_running() for child in children))


def json_log(server: Server) -> str:
    return str(server.look("board.detail(1).log"))


def test_an_app_of_ones_own_runs_on_the_two_files_with_one_job_for_each_visitor(serve: Callable[..., Server]) -> None:
    server = serve("own_app.py", "examples/own_app.py", "loop_runner.py", "tasks.py")
    assert sorted(path.name for path in server.folder.glob("*.*")) == ["loop_runner.py", "own_app.py", "tasks.py"]
    anna, ben = Visitor(server), Visitor(server)
    anna.click("start")
    wait_until(shows(anna, "cake 1 is ready"), every_s=0.2)
    assert "cake" not in ben.text().replace("Bake twenty cakes", "")
    ben.click("start")
    wait_until(shows(ben, "cake 1 is ready"), every_s=0.2)
    anna.click("stop")
    wait_until(shows(anna, "of 20 cakes, stopped"), every_s=0.2)
    assert server.states() == {"running": 1, "stopped": 1}
    wait_until(shows(ben, "cake 2 is ready"), every_s=0.2)
    anna.click("start")
    assert server.states() == {"running": 2}
    assert server.loop_threads() == ["counters"]
    assert server.look("'app' in sys.modules") is False
    server.stop()
    assert "2 counters ended" in server.log
    assert "Traceback" not in server.log
