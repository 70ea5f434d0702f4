"""How long the board's commands take while N counters run, called from one thread and from twenty.

    python -m benchmarks.commands           # about 9 minutes
    python -m benchmarks.commands --quick   # about 90 seconds

Each case is a process of its own, with N counters at 1 Hz on the board. First every thread starts a counter, looks at
the board, stops the counter, starts it again and takes it off, over and over; twenty threads give about 400 commands a
second. Then they search, twenty threads twenty times a second, each time after something changed. Last they search
while nothing changes.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from benchmarks import common
from benchmarks.common import Case, Result, number, quantile
from loop_runner import LoopRunner
from tasks import ENDED, Board, count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

PAUSE_S = {1: 0.01, 20: 0.05}  # between the commands of each of so many threads
ROUNDS = {1: 200, 20: 20}
SEARCHES = {1: 50, 20: 5}
SEARCH_PAUSE_S = {1: 0.01, 20: 1.0}
BLUES = ("#bfdbfe", "#60a5fa", "#2563eb", "#1e3a8a")  # of the chart
COMMANDS = ("start", "stop", "restart", "remove", "page", "totals", "first match", "repeated match")


class Visitor:
    """One thread that gives commands, and notes how long each took."""

    def __init__(self, board: Board, number: int, threads: int) -> None:
        self.board = board
        self.threads = threads
        self.match = f"R {number + 10}"  # every visitor looks for something else
        self.latencies_s: dict[str, list[float]] = defaultdict(list)

    def timed(self, command: str, call: Callable[[], T]) -> T:
        """Call, and note how long that took."""
        began = time.perf_counter()
        result = call()
        self.latencies_s[command].append(time.perf_counter() - began)
        return result

    def command(self) -> None:
        """Give every command, over and over."""
        for _ in range(ROUNDS[self.threads]):
            ids = self.timed("start", lambda: self.board.start(count, name="extra"))
            time.sleep(PAUSE_S[self.threads])
            self.timed("page", self.board.page)
            time.sleep(PAUSE_S[self.threads])
            self.timed("totals", self.board.totals)
            time.sleep(PAUSE_S[self.threads])
            self.timed("stop", lambda ids=ids: self.board.stop(ids))  # type: ignore[misc]
            self.wait_until_ended(ids[0])
            self.timed("restart", lambda ids=ids: self.board.restart(ids))  # type: ignore[misc]
            time.sleep(PAUSE_S[self.threads])
            self.board.stop(ids)
            self.wait_until_ended(ids[0])
            self.timed("remove", lambda ids=ids: self.board.remove(ids))  # type: ignore[misc]

    def search_what_changes(self) -> None:
        """Search, each time after a counter more was started."""
        for _ in range(SEARCHES[self.threads]):
            self.board.start(count, name="extra")
            self.timed("first match", self.search)
            time.sleep(SEARCH_PAUSE_S[self.threads])

    def search_again(self) -> None:
        """Search while nothing changes."""
        for _ in range(ROUNDS[self.threads]):
            self.timed("repeated match", self.search)
            time.sleep(PAUSE_S[self.threads])

    def search(self) -> None:
        """Read the first rows whose name matches."""
        self.board.page(match=self.match)

    def wait_until_ended(self, id: int) -> None:
        """Wait for a counter that was stopped."""
        time.sleep(PAUSE_S[self.threads])
        while self.board.detail(id).row.state not in ENDED:
            time.sleep(0.001)


def measure(case: Case) -> Result:
    """Run one case: the latencies of each command, in milliseconds."""
    runner = LoopRunner()
    board = Board(runner, max_active=200_000)
    if case["n"]:
        board.start(count, name="counter", n=case["n"])
    time.sleep(3 + case["n"] / 20_000)  # until all count, and some seconds more
    visitors = [Visitor(board, number, case["threads"]) for number in range(case["threads"])]
    with ThreadPoolExecutor(len(visitors)) as pool:
        for phase in (Visitor.command, Visitor.search_what_changes, Visitor.search, Visitor.search_again):
            list(pool.map(phase, visitors))
    runner.close()
    return {
        command: [latency_s * 1e3 for visitor in visitors for latency_s in visitor.latencies_s[command]]
        for command in COMMANDS
    }


def all_cases(*, quick: bool) -> list[Case]:
    """List the cases of one turn."""
    return [{"n": n, "threads": t} for n in ((0, 100_000) if quick else (0, 1_000, 10_000, 100_000)) for t in (1, 20)]


def cells(latencies_ms: list[float]) -> str:
    """Write the median, the 99th percentile and the longest."""
    return " / ".join(map(number, (quantile(latencies_ms, 0.5), quantile(latencies_ms, 0.99), max(latencies_ms))))


class Measured:
    """The latencies of all cases, those of all turns together."""

    def __init__(self, cases: list[Case], results: list[list[Result]]) -> None:
        self.cases = list(zip(cases, results, strict=True))
        self.sizes = sorted({case["n"] for case in cases})

    def turns(self, command: str, n: int, threads: int) -> list[list[float]]:
        """List the latencies of a command in each turn."""
        return [
            result[command]
            for case, results in self.cases
            if (case["n"], case["threads"]) == (n, threads)
            for result in results
        ]

    def all_turns(self, command: str, n: int, threads: int) -> list[float]:
        """List the latencies of a command in all turns together."""
        return sorted(chain.from_iterable(self.turns(command, n, threads)))

    def print_tables(self) -> None:
        """Print a table for one thread and one for twenty."""
        for threads, title in ((1, "one thread"), (20, "twenty threads")):
            rows = [
                [command, *(cells(self.all_turns(command, n, threads)) for n in self.sizes)] for command in COMMANDS
            ]
            common.print_table([f"{title}: p50 / p99 / max ms", *(f"{n:,} running" for n in self.sizes)], rows)

    def print_targets(self) -> None:
        """Print what issue 4 and the design say must be reached, beside what was measured at 100,000."""
        limits = [(command, 0.99, 50.0) for command in COMMANDS[:6]]
        limits += [("first match", 0.5, 60.0), ("repeated match", 0.99, 50.0)]
        targets = []
        for command, q, at_most in limits:
            for threads in (1, 20):
                what = f"{command} at {self.sizes[-1]:,}, {threads} at a time: p{q * 100:g}, ms"
                turns = self.turns(command, self.sizes[-1], threads)
                targets.append((what, at_most, [quantile(latencies_ms, q) for latencies_ms in turns]))
        common.print_targets(targets)

    def draw(self, figure: "Figure") -> None:
        """Draw the 99th percentile of each command from twenty threads, a bar for each number of counters."""
        axes = figure.subplots()
        width = 0.8 / len(self.sizes)
        for position, n in enumerate(self.sizes):
            x = [place + position * width for place in range(len(COMMANDS))]
            p99_ms = [quantile(self.all_turns(command, n, 20), 0.99) or 0.0 for command in COMMANDS]
            axes.bar(x, p99_ms, width, label=f"{n:,} running", color=BLUES[position])
        axes.axhline(50, color="#dc2626", linewidth=1, label="a click's limit")
        axes.set_xticks([place + 0.4 - width / 2 for place in range(len(COMMANDS))], COMMANDS, rotation=20)
        axes.set(yscale="log", ylabel="p99 ms, twenty threads")
        figure.legend(loc="outside upper center", ncols=5, frameon=False)


def main() -> None:
    arguments = common.arguments(__doc__)
    if arguments.case:
        print(json.dumps(measure(arguments.case)))
        return
    cases = all_cases(quick=arguments.quick)
    measured = Measured(cases, common.run_in_turns("benchmarks.commands", cases, turns=1 if arguments.quick else 3))
    print(common.machine("anyio"), "\n")
    measured.print_tables()
    measured.print_targets()
    common.save_chart("commands", measured.draw)


if __name__ == "__main__":
    main()
