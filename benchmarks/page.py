"""What one refresh of the page costs the server: ours against an empty fragment, the article's app, NiceGUI and Dash.

    python -m benchmarks.page           # about 25 minutes
    python -m benchmarks.page --quick   # about 2 minutes

Each case is a server of its own, with visitors over real websockets (Dash: over HTTP) who refresh once a second, each
at another moment. A refresh costs the CPU time of the server with visitors less that of the same server without, by
the number of refreshes. The visitors send what Chromium sends, and full runs check their bytes against Chromium's.

NiceGUI and Dash need a Python that has them (`pip install nicegui dash waitress`), named by the variable PAGE_OTHERS.
"""

import asyncio
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from benchmarks import common
from benchmarks.common import ROOT, Case, Result, median, number, quantile, spread
from benchmarks.sessions import Session
from serving import Server, free_port, wait_until

if TYPE_CHECKING:
    from matplotlib.figure import Figure

APPS = Path(__file__).resolve().parent / "page_apps"
OTHERS = os.environ.get("PAGE_OTHERS", "")  # the Python that has NiceGUI and Dash
CHROMIUM = "/usr/bin/chromium"
SETTLE_S = 2.5  # after visitors came or went
PATIENCE_S = 30.0  # for a server to answer, and for all counters to count
PUSHED_S = 1e-4  # nothing answers so fast: the server sent it without being asked
LATE_S = 1.5  # a gap between two refreshes beyond this is late
OPEN_S = 60.0  # for one more step of visitors to open the page
LATE_SHARE = 0.01  # of the gaps, that a server which holds its sessions may have
WINDOWS = 5  # for each number of sessions: the machine may be taken away for seconds, by others who share it
# Makes the histories of the counters shown, and of the totals, as long as they are after a minute.
FILL = (
    "setattr(board._samples, 'last', (99, board._samples.last[1][-1:] * 29))",
    "[series.extend([series[-1]] * 60) for series in board._series]",
)
SMALL = 150  # bytes; what ends a run is smaller, and only what is smaller is parsed

# Visitors


class Visitor(Session):
    """A session that sends what Chromium sends, and reads of a refresh only how long it is and where it ends."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.states: dict[str, WidgetState] = {}

    async def run(self, fragment: str = "", *, click: str = "", tick: str = "") -> None:
        """Run the whole script as any session does; a fragment with little work of our own."""
        if not fragment:
            await super().run(click=click, tick=tick)
            return
        message = BackMsg(rerun_script=ClientState(fragment_id=fragment, is_auto_rerun=True))
        message.rerun_script.widget_states.widgets.extend(self.states.values())
        asked = time.monotonic()
        await self.socket.send(message.SerializeToString())
        received = await self.receive_run()
        self.runs.append((asked, time.monotonic(), received))

    async def receive_run(self) -> int:
        """Receive messages until a run has finished; return their bytes."""
        received = 0
        while True:
            data = await self.socket.recv(decode=False)
            received += len(data)
            if is_end(data):
                return received

    async def close(self) -> None:
        """Leave at once: a farewell would wait behind what the server has sent and nobody reads any more."""
        self.socket.transport.abort()

    def _note(self, answer: ForwardMsg) -> None:
        super()._note(answer)
        element = answer.delta.new_element
        kind = element.WhichOneof("type")
        if kind and (state := first_state(kind, getattr(element, kind))):
            self.states[state.id] = state


def is_end(data: bytes) -> bool:
    """Tell whether this message says that a run has finished."""
    return len(data) < SMALL and ForwardMsg.FromString(data).WhichOneof("type") == "script_finished"


def first_state(kind: str, element: Any) -> WidgetState | None:
    """Give what a browser tells about a widget that nobody has touched; None for what it tells nothing about."""
    if not getattr(element, "id", ""):
        return None
    state = WidgetState(id=element.id)
    if kind == "text_input":
        state.string_value = element.default
    elif kind == "selectbox":
        state.string_value = element.options[element.default]
    elif kind == "checkbox":
        state.bool_value = element.default
    elif kind == "number_input" and element.HasField("default"):
        if element.data_type == element.INT:
            state.int_value = int(element.default)
        else:
            state.double_value = element.default
    elif kind == "button_group":
        state.string_array_value.data.extend(element.raw_values)
    elif kind == "pagination":
        state.int_value = 1
    elif kind == "dataframe":
        state.string_value = json.dumps({"selection": {"rows": [], "columns": [], "cells": []}})
    elif kind != "number_input":
        return None
    return state


class Apart(Visitor):
    """A visitor who looks at rows that nobody else does."""

    places = itertools.count(1)

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.place = next(self.places)

    def _note(self, answer: ForwardMsg) -> None:
        super()._note(answer)
        if answer.delta.new_element.WhichOneof("type") == "pagination":
            self.states[answer.delta.new_element.pagination.id].int_value = self.place


class WholePage(Visitor):
    """A visitor whose whole page runs again each time, not only its fragment."""

    async def refresh_for(self, seconds: float, every_s: float = 1.0) -> None:
        """Refresh without telling a fragment."""
        self.fragments = []
        await super().refresh_for(seconds, every_s)

    async def run(self, fragment: str = "", *, click: str = "", tick: str = "") -> None:
        """Run the whole script, with little work of our own after the first time."""
        if not self.runs:
            await super().run()
            return
        message = BackMsg(rerun_script=ClientState())
        message.rerun_script.widget_states.widgets.extend(self.states.values())
        asked = time.monotonic()
        await self.socket.send(message.SerializeToString())
        received = await self.receive_run()
        self.runs.append((asked, time.monotonic(), received))


class Watcher(Visitor):
    """A visitor of a page that runs itself again: only watches."""

    async def run(self, fragment: str = "", *, click: str = "", tick: str = "") -> None:
        """Ask for the first run."""
        await self.socket.send(BackMsg(rerun_script=ClientState()).SerializeToString())
        await self.receive_run()

    async def refresh_for(self, seconds: float, every_s: float = 1.0) -> None:
        """Note the runs that end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    received = await self.receive_run()
                    self.runs.append((time.monotonic(), time.monotonic(), received))


class NiceGuiVisitor(Visitor):
    """A browser with a NiceGUI page: Socket.IO over a websocket, on which the server pushes updates."""

    async def open(self) -> None:
        """Load the page, and connect as its script would."""
        page = await asyncio.to_thread(read, self.url)
        (client,) = re.findall(r"'client_id': '([^']+)'", page)
        query = {"EIO": "4", "transport": "websocket", "client_id": client, "next_message_id": "0"}
        query |= {"implicit_handshake": "true", "tab_id": client, "document_id": client}
        address = f"{self.url.replace('http', 'ws', 1)}/_nicegui_ws/socket.io/?{urllib.parse.urlencode(query)}"
        self.socket = await websockets.connect(address, max_size=None, compression=None)
        await self.socket.recv()
        await self.socket.send("40")

    async def refresh_for(self, seconds: float, every_s: float = 1.0) -> None:
        """Note the updates, and answer the server's pings."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    data = await self.socket.recv(decode=False)
                    if data == b"2":
                        await self.socket.send("3")
                    elif data.startswith(b'42["update"'):
                        self.runs.append((time.monotonic(), time.monotonic(), len(data)))


class DashVisitor(Visitor):
    """A browser with a Dash page, which calls the server back every second."""

    BODY = json.dumps(
        {
            "output": "..number-0.children...number-1.children...number-2.children...number-3.children...table.data..",
            "outputs": [
                *({"id": f"number-{position}", "property": "children"} for position in range(4)),
                {"id": "table", "property": "data"},
            ],
            "inputs": [{"id": "every", "property": "n_intervals", "value": 1}],
            "changedPropIds": ["every.n_intervals"],
        }
    )

    async def open(self) -> None:
        """Connect; the connection is kept."""
        host = self.url.removeprefix("http://")
        self.reader, self.writer = await asyncio.open_connection(*host.split(":"))
        head = f"POST /_dash-update-component HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        self.request = f"{head}Content-Length: {len(self.BODY)}\r\n\r\n{self.BODY}".encode()

    async def run(self, fragment: str = "", *, click: str = "", tick: str = "") -> None:
        """Call back."""
        asked = time.monotonic()
        self.writer.write(self.request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        (length,) = re.findall(rb"(?i)content-length: (\d+)", head)
        await self.reader.readexactly(int(length))
        self.runs.append((asked, time.monotonic(), len(head) + int(length)))

    async def close(self) -> None:
        """Close the connection."""
        self.writer.close()


# Servers


class Served:
    """A server under measurement: where it is, how much CPU time it has used, and a look inside, if it has a window."""

    def __init__(self, url: str, pid: int, look: Callable[[str], Any] | None = None) -> None:
        self.url = url
        self.look = look
        self._process = psutil.Process(pid)

    def cpu_s(self) -> float:
        """Read the CPU time used so far, in user and in system mode."""
        times = self._process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def serve_streamlit(app: str, n: int) -> Iterator[Served]:
    """Run the product with its configuration, or another app in its place, with `n` counters."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        if app:
            (server.folder / "app.py").write_text((APPS / f"{app}.py").read_text())
        try:
            server.start()
            assert server.process is not None
            asyncio.run(come_and_go(server.url, Visitor if app != "article" else Watcher))
            if n:
                server.look(f"board.start(sys.modules['tasks'].count, name='c', n={n})[0]")
                wait_until(lambda: server.look("board.totals().ticks_per_s") >= n * 0.9, PATIENCE_S, 0.3)
                for fill in FILL:
                    server.look(fill)
            yield Served(server.url, server.process.pid, server.look)
        finally:
            if server.process and server.process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    server.stop()
            server.kill()


async def come_and_go(url: str, kind: type[Visitor]) -> None:
    """Visit the page once, so that what is made at the first visit is there."""
    visitor = kind(url)
    await visitor.open()
    await visitor.close()


@contextmanager
def serve_other(app: str, n: int) -> Iterator[Served]:
    """Run a board in another framework."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    child = subprocess.Popen(
        [OTHERS, str(APPS / f"{app}.py"), str(port), str(n)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        wait_until(lambda: answers(url), PATIENCE_S, 0.2)
        yield Served(url, child.pid)
    finally:
        child.kill()
        child.wait()


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


# What is measured: (the app instead of ours, its visitors). `""` is ours.

APPS_AND_VISITORS: dict[str, tuple[str, type[Visitor]]] = {
    "an empty fragment": ("empty", Visitor),
    "ours": ("", Visitor),
    "ours, each visitor other rows": ("", Apart),
    "ours, the whole page": ("", WholePage),
    "the article's app": ("article", Watcher),
    "NiceGUI": ("in_nicegui", NiceGuiVisitor),
    "Dash": ("in_dash", DashVisitor),
}


@contextmanager
def serve(what: str, n: int) -> Iterator[tuple[Served, type[Visitor]]]:
    app, kind = APPS_AND_VISITORS[what]
    if app.startswith("in_"):
        with serve_other(app, n) as served:
            yield served, kind
    else:
        with serve_streamlit(app, 0 if app == "article" else n) as served:
            yield served, kind


async def refresh(visitors: Sequence[Visitor], seconds: float) -> None:
    """Have all refresh once a second for so long, each at another moment of the second."""

    async def one(visitor: Visitor, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await visitor.refresh_for(seconds - delay_s)

    await asyncio.gather(*(one(visitor, place / len(visitors)) for place, visitor in enumerate(visitors)))


async def window(served: Served, seconds: float) -> tuple[float, float, float]:
    """Watch the server for so long; return the CPU seconds per second used by it and by this process, and stolen."""
    began, cpu_s, own_s, stolen_s = time.monotonic(), served.cpu_s(), time.process_time(), stolen()
    await asyncio.sleep(seconds)
    took_s = time.monotonic() - began
    cpu_s, own_s, stolen_s = served.cpu_s() - cpu_s, time.process_time() - own_s, stolen() - stolen_s
    return cpu_s / took_s, own_s / took_s, stolen_s / took_s


async def measure_refresh(served: Served, kind: type[Visitor], case: Case) -> Result:
    """Measure what a refresh costs: with visitors, less without, before and after them."""
    idle_s = case["window_s"] / 2
    await asyncio.sleep(SETTLE_S)
    idle = [(await window(served, idle_s))[0]]
    quiet = inside(served, idle_s)
    visitors = [kind(served.url) for _ in range(case["sessions"])]
    for visitor in visitors:
        await visitor.open()
    refreshing = asyncio.create_task(refresh(visitors, SETTLE_S + case["window_s"] + 1))
    await asyncio.sleep(SETTLE_S)
    began = time.monotonic()
    busy, own, lost = await window(served, case["window_s"])
    ended = time.monotonic()
    loaded = inside(served, case["window_s"])
    await refreshing
    for visitor in visitors:
        await visitor.close()
    await asyncio.sleep(SETTLE_S)
    idle.append((await window(served, idle_s))[0])
    runs = [run for visitor in visitors for run in visitor.runs if began <= run[1] < ended]
    answer_s = quantile([end - asked for asked, end, _ in runs], 0.99) or 0.0
    return {
        "cpu_ms": (busy - sum(idle) / 2) * (ended - began) / len(runs) * 1e3,
        "bytes": sum(size for _, _, size in runs) / len(runs),
        "per_s": len(runs) / (ended - began) / case["sessions"],
        "answer_ms": answer_s * 1e3 if answer_s > PUSHED_S else None,
        "idle": idle[0] * 100,
        "client": own * 100,
        "stolen": lost * 100,
        "errors": sum(len(visitor.errors) for visitor in visitors),
        "quiet": quiet,
        "loaded": loaded,
    }


def inside(served: Served, seconds: float) -> list[float] | None:
    """Read lateness p50 and p99 of the counters, and the loop's lag p99 over the last seconds, all in ms."""
    if served.look is None:
        return None
    since = time.monotonic() - seconds  # the clock is the machine's: the server's is the same
    late = served.look("[board.totals().lateness_p50_s, board.totals().lateness_p99_s] if board else None")
    pings = served.look(f"[lag for when, lag in list(board.runner._pings) if when > {since}] if board else None")
    return [value * 1e3 for value in (*late, quantile(pings, 0.99) or 0.0)] if late and pings else None


async def measure_capacity(served: Served, kind: type[Visitor], case: Case) -> Result:
    """Add visitors step by step until more than 1 % of the gaps between refreshes are late in the median window."""
    visitors: list[Visitor] = []
    refreshing: list[asyncio.Task[None]] = []
    # The sessions, and for each window: gaps that were late, CPU of the server, of the visitors, stolen time, all in %.
    # No window: they could not even open the page.
    levels: list[tuple[int, list[tuple[float, float, float, float]]]] = []
    held = 0
    for sessions in range(case["step"], case["most"] + 1, case["step"]):
        try:
            async with asyncio.timeout(OPEN_S):
                while len(visitors) < sessions:
                    visitor = kind(served.url)
                    await visitor.open()
                    visitors.append(visitor)
                    refreshing.append(asyncio.create_task(visitor.refresh_for(1e6)))
        except TimeoutError:
            levels.append((sessions, []))
            break
        await asyncio.sleep(SETTLE_S)
        windows = [await late_window(served, visitors, case["window_s"]) for _ in range(WINDOWS)]
        levels.append((sessions, windows))
        if statistics.median(late for late, *_ in windows) > LATE_SHARE * 100:
            break
        held = sessions
    for task in refreshing:
        task.cancel()
    await asyncio.wait(refreshing)
    for visitor in visitors:
        await visitor.close()
    return {"held": held, "levels": levels}


async def late_window(served: Served, visitors: Sequence[Visitor], seconds: float) -> tuple[float, float, float, float]:
    """Watch for so long; return late gaps, CPU of the server and of the visitors, and stolen time, all in %."""
    began = time.monotonic()
    cpu, own, lost = await window(served, seconds)
    gaps = [gap for visitor in visitors for gap in gaps_since(visitor, began)]
    late = sum(gap > LATE_S for gap in gaps) / len(gaps)
    return late * 100, cpu * 100, own * 100, lost * 100


def stolen() -> float:
    """Read for how many seconds a core of this machine had work but did not run: the host gave it to others."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0)) / (os.cpu_count() or 1)


def gaps_since(visitor: Visitor, began: float) -> list[float]:
    """List the gaps that ended after that moment, and the one that has not ended if it is late already."""
    ends = [end for _, end, _ in visitor.runs]
    gaps = [after - before for before, after in pairwise(ends) if after > began]
    unended = time.monotonic() - ends[-1]
    return [*gaps, unended] if unended > LATE_S else gaps


def check_against_chromium(case: Case) -> Result:
    """Count the bytes per refresh that Chromium receives, and those that our visitor does, from the same server."""
    from playwright.sync_api import WebSocket, sync_playwright

    received: list[bytes] = []
    sent: list[bytes] = []

    def listen(socket: WebSocket) -> None:
        socket.on("framereceived", lambda data: received.append(data if isinstance(data, bytes) else data.encode()))
        socket.on("framesent", lambda data: sent.append(data if isinstance(data, bytes) else data.encode()))

    with serve("ours", case["n"]) as (served, kind):
        visitor = kind(served.url)

        async def visit() -> None:
            await visitor.open()
            await visitor.refresh_for(case["window_s"])
            await visitor.close()

        with sync_playwright() as playwright, ThreadPoolExecutor() as pool:
            arguments = ["--no-sandbox", "--disable-gpu"]
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
            page = browser.new_page()
            page.on("websocket", listen)
            page.goto(served.url)
            page.wait_for_timeout(5_000)
            received.clear()
            visiting = pool.submit(asyncio.run, visit())  # at the same time, so that both are shown the same
            page.wait_for_timeout(case["window_s"] * 1e3)
            visiting.result()
            browser.close()
    ends = [place for place, data in enumerate(received) if is_end(data)]
    sizes = [sum(map(len, received[start + 1 : end + 1])) for start, end in pairwise(ends)]
    told = BackMsg.FromString(sent[-1]).rerun_script.widget_states.widgets
    return {
        "chromium": statistics.mean(sizes),
        "visitor": statistics.mean(size for _, _, size in visitor.runs[2:]),
        "same_widgets": sorted(map(str, told)) == sorted(map(str, visitor.states.values())),
    }


def measure(case: Case) -> Result:
    """Run one case."""
    if case["kind"] == "chromium":
        return check_against_chromium(case)
    with serve(case["what"], case["n"]) as (served, kind):
        run = measure_capacity if case["kind"] == "capacity" else measure_refresh
        # In good time: a case that has to be killed would leave its server behind.
        seconds = case.get("timeout_s", common.CASE_TIMEOUT_S) - PATIENCE_S * 1.5
        return asyncio.run(asyncio.wait_for(run(served, kind, case), seconds))


# All cases


def make_case(what: str, n: int, *, sessions: int = 20, window_s: float = 8.0) -> Case:
    return {"kind": "refresh", "what": what, "n": n, "sessions": sessions, "window_s": window_s}


def all_cases(*, quick: bool) -> list[Case]:
    """List the cases of one turn; where a refresh is dear there are fewer sessions, so that none has to wait."""
    window_s = 3.0 if quick else 8.0
    cases = [
        make_case("an empty fragment", 100, window_s=window_s),
        make_case("ours", 100, window_s=window_s),
        make_case("ours", 100_000, window_s=window_s),
        make_case("the article's app", 50, sessions=8, window_s=window_s),
    ]
    if not quick:
        cases[1:1] = [make_case("ours", 10)]
        cases[3:3] = [make_case("ours", 10_000), make_case("ours, each visitor other rows", 10_000)]
        cases.append(make_case("ours, the whole page", 100, sessions=8))
        if OTHERS:
            cases += [make_case("NiceGUI", 100), make_case("Dash", 100)]
    return cases


def capacity_case(what: str, *, step: int, quick: bool = False) -> Case:
    case: Case = {"kind": "capacity", "what": what, "n": 100, "step": step, "most": 400, "window_s": 4.0}
    return case | ({"window_s": 2.0} if quick else {"timeout_s": 600.0})


def title(case: Case) -> str:
    shown = "" if case["what"] == "an empty fragment" else ", 10 cards" if case["n"] == 10 else ", 50 rows"
    return f"{case['what']}{shown}, {case['n']:,} counters"


class Measured:
    """The results of all cases."""

    def __init__(self, cases: list[Case], results: list[list[Result]]) -> None:
        self.cases = list(zip(cases, results, strict=True))

    def values(self, what: str, n: int, key: str = "cpu_ms") -> list[Any]:
        """List what was measured in each turn."""
        for case, results in self.cases:
            if (case["what"], case["n"]) == (what, n):
                return [result[key] for result in results]
        return []

    def ratios(self, one: tuple[str, int], other: tuple[str, int]) -> list[float | None]:
        """Divide the CPU per refresh of two cases, turn by turn."""
        return [a / b for a, b in zip(self.values(*one), self.values(*other), strict=False)]

    def print_tables(self) -> None:
        """Print what refreshes cost, and what they do to the counters."""
        head = (
            "one refresh",
            "CPU ms",
            "kB",
            "answered p99 ms",
            "per second",
            "sessions",
            "visitors' CPU %",
            "stolen %",
            "errors",
        )
        rows = []
        for case, results in self.cases:
            got: dict[str, list[float | None]] = {key: [result[key] for result in results] for key in KEYS}
            sizes = [size / 1e3 for size in got["bytes"] if size is not None]
            cells = [spread(got["cpu_ms"]), number(median(sizes)), spread(got["answer_ms"])]
            cells += [number(median(got["per_s"])), str(case["sessions"]), number(median(got["client"]))]
            cells += [spread(got["stolen"]), str(sum(int(n or 0) for n in got["errors"]))]
            rows.append([title(case), *cells])
        common.print_table(head, rows)
        head = ("counters", "late p50 ms", "late p99 ms", "loop lag p99 ms")
        rows = []
        for n in (100, 10_000, 100_000):
            for key, who in (("quiet", "nobody looks"), ("loaded", "twenty sessions")):
                if found := [value for value in self.values("ours", n, key) if value]:
                    rows.append([f"{n:,}, {who}", *(spread(values) for values in zip(*found, strict=True))])
        common.print_table(head, rows)

    def print_targets(self, capacity: list[Result]) -> None:
        """Print what issue 4 says must be reached, beside what was measured."""
        rows = ("ours", 100)
        common.print_targets(
            [
                ("one refresh at 100,000 counters, against 100", 1.3, self.ratios(("ours", 100_000), rows)),
                (
                    "one refresh with 50 rows, against an empty fragment",
                    2,
                    self.ratios(rows, ("an empty fragment", 100)),
                ),
                ("the same, against the article's whole page", 0.2, self.ratios(rows, ("the article's app", 50))),
            ]
        )
        held = median([result["held"] for result in capacity])
        mark = "—" if held is None else "✓" if held >= 150 else "✗"
        values = spread([result["held"] for result in capacity])
        common.print_table(
            ("what must be reached", "at least", "measured", ""), [("sessions held", "150", values, mark)]
        )

    def draw(self, figure: "Figure") -> None:
        """Draw the CPU per refresh of each case, with the range of its turns."""
        axes = figure.subplots()
        for place, (case, results) in enumerate(reversed(self.cases)):
            values = [result["cpu_ms"] for result in results]
            if values:
                middle = median(values) or 0.0
                color = "#0f766e" if case["what"] == "ours" else "#b8c4c4"
                axes.barh(place, middle, color=color)
                axes.plot([min(values), max(values)], [place, place], color="#1c2b2d", linewidth=1)
                axes.annotate(number(middle), (max(values), place), (4, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(self.cases)), [title(case) for case, _ in reversed(self.cases)])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("CPU ms of the server per refresh")


KEYS = ("cpu_ms", "bytes", "answer_ms", "per_s", "client", "stolen", "errors")


def main() -> None:
    arguments = common.arguments(__doc__)
    if arguments.case:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
        print(json.dumps(measure(arguments.case)))
        return
    quick = arguments.quick
    cases = all_cases(quick=quick)
    measured = Measured(cases, common.run_in_turns("benchmarks.page", cases, 1 if quick else 3))
    steps = [capacity_case("ours", step=50 if quick else 25, quick=quick)]
    if not quick:
        steps.append(capacity_case("an empty fragment", step=50))
    capacity = common.run_in_turns("benchmarks.page", steps, 1)
    check: Case = {"kind": "chromium", "n": 100, "window_s": 10}
    (chromium,) = [[]] if quick else common.run_in_turns("benchmarks.page", [check], 1)
    print(common.machine("streamlit", "websockets", "protobuf"), "\n")
    measured.print_tables()
    head = ("sessions at 1 Hz", "of", "gaps over 1.5 s, %", "server's CPU %", "visitors' CPU %", "stolen %")
    rows = [
        [str(sessions), title(case), *([spread(values) for values in zip(*windows, strict=True)] or ["—"] * 4)]
        for case, results in zip(steps, capacity, strict=True)
        for result in results
        for sessions, windows in result["levels"]
    ]
    common.print_table(head, rows)
    measured.print_targets(capacity[0])
    for note in notes(quick=quick, chromium=chromium):
        print(f"- {note}")
    print()
    common.save_chart("page", measured.draw)


def notes(*, quick: bool, chromium: list[Result]) -> Iterator[str]:
    """Say what the tables do not."""
    for result in chromium:
        ratio = result["visitor"] / result["chromium"]
        same = "the same" if result["same_widgets"] else "not the same"
        yield (
            f"Chromium received {result['chromium']:,.0f} bytes per refresh, our visitor {result['visitor']:,.0f}:"
            f" {ratio:.3f} of it. The widget states that both send are {same}."
        )
    yield "Visitors who look at the same rows share them: so do the twenty, but for those who look at other rows each."
    yield "The article's app is rebuilt from its description: 50 threads, 50 lines with a button, a rerun each second."
    if quick:
        yield "NiceGUI, Dash and Chromium are left out of quick runs."
    elif not OTHERS:
        yield "NiceGUI and Dash are left out: PAGE_OTHERS names no Python that has them."
    else:
        yield "NiceGUI and Dash show the same columns of the same board, history as text; Dash is served by waitress."


if __name__ == "__main__":
    main()
