"""What N counters at 1 Hz cost: ours, all of the board's bookkeeping included, against other ways to run them.

    python -m benchmarks.engines           # about 15 minutes
    python -m benchmarks.engines --quick   # about 2 minutes

Each case is a process of its own: it starts N counters whose first beats are spread over one second, waits until all
count, warms up, watches them for some seconds, and stops them. Up to 500 of the counters are probes, which note the
lateness of each beat: against the counter's own schedule, `start + k` seconds, so that drift counts as lateness.
"""

import asyncio
import json
import math
import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing.sharedctypes import RawArray
from typing import TYPE_CHECKING, Any

import anyio
import asynclit
import psutil
import uvloop

from benchmarks import common
from benchmarks.common import Case, Result, median, number, quantile, spread
from loop_runner import LoopRunner
from tasks import ENDED, Board, Counter, count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTERVAL_S = 1.0
GRID_S, FINE_GRID_S = 0.005, 0.001  # of the floor's buckets: as the board's, and finer
WARM_UP_S = 1.0
PATIENCE_S = 20.0  # for all to count, and again for all to end
PROBES = 500
SINGLE_STOPS = 200
PIECE = 1_000  # counters started before the loop gets to breathe, as the board's

# Engines


class Probe(Counter):
    """A counter that notes how late each addition is."""

    __slots__ = ("due", "latenesses")

    def __init__(self, due: float, latenesses: list[float]) -> None:
        super().__init__()
        self.due = due
        self.latenesses = latenesses

    def add(self, n: int = 1) -> None:
        """Add `n` to the value, and note the lateness."""
        super().add(n)
        self.latenesses.append(time.monotonic() - self.due)
        self.due += INTERVAL_S


class Engine:
    """`n` counters at 1 Hz: their first beats are spread over one second, or at one moment if they are `in_phase`."""

    most = 100_000  # counters to try it with

    def __init__(self, n: int, *, in_phase: bool) -> None:
        self.n = n
        self.in_phase = in_phase
        self.latenesses: list[float] = []
        self.counters: list[Counter] = []

    def start(self) -> None:
        """Start all counters, without waiting for them where that is possible."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ask all counters to stop."""
        raise NotImplementedError

    def has_ended(self, position: int) -> bool:
        """Tell whether that counter has really ended."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Do what must not be part of the measured start."""

    def close(self) -> None:
        """Leave nothing behind."""

    def counts(self, position: int) -> bool:
        """Tell whether that counter has been made and has counted."""
        return position < len(self.counters) and self.counters[position].value > 0

    def beats(self) -> int:
        """Add up the beats of all counters."""
        return sum(counter.value for counter in self.counters)

    def cpu_s(self) -> float:
        """Read the CPU time used so far."""
        return time.process_time()

    def memory(self) -> int:
        """Read the memory in use, in bytes."""
        return int(psutil.Process().memory_info().rss)

    def read_latenesses(self) -> list[float]:
        """List the latenesses that the probes noted since the list was cleared."""
        return list(self.latenesses)

    def single_stops(self) -> list[float]:
        """Stop some counters one by one, and tell how long each took to end; only ours can."""
        return []

    def first_due(self, began: float, position: int) -> float:
        """Compute when that counter shall beat first."""
        return began + (INTERVAL_S if self.in_phase else (position + 1) / self.n * INTERVAL_S)

    def make(self, began: float) -> Iterator[tuple[Counter, float]]:
        """Make the counters, some of them probes, each with the time of its first beat."""
        every = self.n // min(self.n, PROBES)
        for position in range(self.n):
            due = self.first_due(began, position)
            counter = Counter() if position % every else Probe(due, self.latenesses)
            self.counters.append(counter)
            yield counter, due


class Ours(Engine):
    """The board with the job `count`, as the app runs it."""

    def __init__(self, n: int, *, in_phase: bool) -> None:
        super().__init__(n, in_phase=in_phase)
        self.board = Board(LoopRunner())
        self.probes = min(n // 2, PROBES)
        self.ids: list[int] = []

    def prepare(self) -> None:
        """Start the probes: another job, so another start."""
        self.ids += self.board.start(self._probe, name="probe", n=self.probes)
        wait_for_all(self.probes, self.counts)

    def start(self) -> None:
        """Start the others in bulk."""
        self.ids += self.board.start(self._count_in_phase if self.in_phase else count, name="c", n=self.n - self.probes)

    def stop(self) -> None:
        """Ask all to stop with one call."""
        self.board.stop(self.ids)

    # The board is asked through what it keeps, not through `page`, so that watching costs little.

    def has_ended(self, position: int) -> bool:
        """Tell whether the board says so."""
        return self.board._records[self.ids[position]].state in ENDED

    def counts(self, position: int) -> bool:
        """Tell whether that counter has been made and has counted."""
        record = self.board._records.get(self.ids[position])
        return record is not None and record.counter.value > 0

    def beats(self) -> int:
        """Add up the beats of all counters."""
        return sum(record.counter.value for record in list(self.board._records.values()))

    def single_stops(self) -> list[float]:
        """Stop some counters one by one, and tell how long each took to end."""
        latencies = []
        for position in random.Random(4).sample(range(self.n), min(SINGLE_STOPS, self.n)):
            asked = time.monotonic()
            self.board.stop([self.ids[position]])
            while not self.has_ended(position):
                time.sleep(0.0005)
            latencies.append(time.monotonic() - asked)
        return latencies

    def close(self) -> None:
        """Close the board's loop."""
        self.board.runner.close()

    async def _probe(self, counter: Counter) -> None:
        self._align(counter)
        counter.add(await counter.beat())
        start = counter._start or 0.0
        due = start + (math.floor((time.monotonic() - start) / INTERVAL_S + 0.01) + 1) * INTERVAL_S
        while not counter.finished:
            beats = await counter.beat()
            counter.add(beats)
            self.latenesses.append(time.monotonic() - due)
            due += beats * INTERVAL_S

    async def _count_in_phase(self, counter: Counter) -> None:
        self._align(counter)
        await count(counter)

    def _align(self, counter: Counter) -> None:
        # The board spreads what it starts; to have all beat at one moment their schedules are moved here.
        if self.in_phase:
            counter._start = float(math.floor(counter._start or 0.0))


class OursOnUvloop(Ours):
    """The same on a loop of uvloop."""

    def __init__(self, n: int, *, in_phase: bool) -> None:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        super().__init__(n, in_phase=in_phase)


class OnLoop(Engine):
    """An asyncio task for each counter, all started from one coroutine on a loop in a thread."""

    def __init__(self, n: int, *, in_phase: bool) -> None:
        super().__init__(n, in_phase=in_phase)
        self.runner = LoopRunner()
        self.tasks: list[asyncio.Task[None]] = []

    async def job(self, counter: Counter, due: float) -> None:
        """Count, the first time when `due` on the loop's clock."""
        raise NotImplementedError

    def start(self) -> None:
        """Submit one coroutine that makes all tasks, some at a time."""
        self.runner.submit(self._start_all())

    def stop(self) -> None:
        """Submit one coroutine that cancels all tasks."""
        self.runner.submit(self._stop_all())

    def has_ended(self, position: int) -> bool:
        """Tell whether the task is done."""
        return self.tasks[position].done()

    def close(self) -> None:
        """Close the loop."""
        self.runner.close()

    async def _start_all(self) -> None:
        made = self.make(time.monotonic())
        while piece := list(islice(made, PIECE)):
            self.tasks += [asyncio.create_task(self.job(counter, due)) for counter, due in piece]
            await asyncio.sleep(0)

    async def _stop_all(self) -> None:
        for task in self.tasks:
            task.cancel()


class Sleep(OnLoop):
    """What everybody writes first."""

    async def job(self, counter: Counter, due: float) -> None:
        """Count, and sleep one second after each addition."""
        await asyncio.sleep(due - time.monotonic())
        counter.add()
        while not counter.finished:
            await asyncio.sleep(INTERVAL_S)
            counter.add()


class SleepOnUvloop(Sleep):
    """The same on a loop of uvloop."""

    def __init__(self, n: int, *, in_phase: bool) -> None:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        super().__init__(n, in_phase=in_phase)


class Deadlines(OnLoop):
    """Sleep until the next multiple of the interval, so that nothing drifts."""

    async def job(self, counter: Counter, due: float) -> None:
        """Count, and sleep for what is left of each second."""
        while not counter.finished:
            await asyncio.sleep(due - time.monotonic())
            counter.add()
            due += INTERVAL_S


class AnyioDeadlines(OnLoop):
    """The same with anyio."""

    async def job(self, counter: Counter, due: float) -> None:
        """Count, and sleep until each second is over."""
        while not counter.finished:
            await anyio.sleep_until(due)
            counter.add()
            due += INTERVAL_S


class Asynclit(Engine):
    """Its tasks, each telling its value through its progress queue, all of which a page reads once a second."""

    most = 1_000  # each start looks at all tasks started before: 10,000 took 103 s to start

    def __init__(self, n: int, *, in_phase: bool) -> None:
        super().__init__(n, in_phase=in_phase)
        self.tasks: list[asynclit.Task[None]] = []
        self.shown: list[int] = []
        self.stopping = threading.Event()
        self.page = threading.Thread(target=self._refresh)

    def start(self) -> None:
        """Run one task after the other."""
        for counter, due in self.make(time.monotonic()):
            self.tasks.append(asynclit.run(self._job, counter, due))  # type: ignore[arg-type]
        self.page.start()

    def stop(self) -> None:
        """Cancel one after the other."""
        self.stopping.set()
        self.page.join()
        for task in self.tasks:
            task.cancel()

    def has_ended(self, position: int) -> bool:
        """Tell whether the task is done."""
        return self.tasks[position].done

    async def _job(self, queue: Any, counter: Counter, due: float) -> None:
        while not counter.finished:
            await asyncio.sleep(due - time.monotonic())
            counter.add()
            await queue.async_q.put(counter.value)
            due += INTERVAL_S

    def _refresh(self) -> None:
        while not self.stopping.wait(INTERVAL_S):
            self.shown = [max(task.progress, default=0) for task in self.tasks]


class Threads(Engine):
    """A thread for each counter, which looks each second whether it shall stop."""

    most = 1_000  # 10,000 work on an idle machine; on a busy one they did not even start within minutes

    def __init__(self, n: int, *, in_phase: bool) -> None:
        super().__init__(n, in_phase=in_phase)
        self.threads: list[threading.Thread] = []
        self.stopped = False

    def start(self) -> None:
        """Start one thread after the other."""
        for counter, due in self.make(time.monotonic()):
            thread = threading.Thread(target=self._run, args=(counter, due), daemon=True)
            self.threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Set the flag that all threads look at."""
        self.stopped = True

    def has_ended(self, position: int) -> bool:
        """Tell whether the thread is over."""
        return not self.threads[position].is_alive()

    def _run(self, counter: Counter, due: float) -> None:
        while not self.stopped:
            time.sleep(max(0.0, due - time.monotonic()))
            counter.add()
            due += INTERVAL_S


class Processes(Engine):
    """A forked process for each counter, the cheapest kind; each writes to shared memory."""

    most = 100  # several megabytes each

    def __init__(self, n: int, *, in_phase: bool) -> None:
        super().__init__(n, in_phase=in_phase)
        self.values = RawArray("q", n)
        self.cpus_s = RawArray("d", n)
        self.last_latenesses = RawArray("d", n)
        self.processes: list[multiprocessing.process.BaseProcess] = []

    def start(self) -> None:
        """Fork one process after the other."""
        fork = multiprocessing.get_context("fork")
        for position, (_, due) in enumerate(self.make(time.monotonic())):
            process = fork.Process(target=self._run, args=(position, due), daemon=True)
            self.processes.append(process)
            process.start()

    def stop(self) -> None:
        """Terminate one process after the other."""
        for process in self.processes:
            process.terminate()

    def has_ended(self, position: int) -> bool:
        """Tell whether the process is over."""
        return not self.processes[position].is_alive()

    def counts(self, position: int) -> bool:
        """Tell whether it has counted."""
        return bool(self.values[position])

    def beats(self) -> int:
        """Add up the beats of all counters."""
        return sum(map(int, self.values))

    def read_latenesses(self) -> list[float]:
        """List the lateness of the last beat of each."""
        return list(self.last_latenesses)

    def cpu_s(self) -> float:
        """Read the CPU time of all processes."""
        return super().cpu_s() + sum(map(float, self.cpus_s))

    def memory(self) -> int:
        """Read the memory of all processes; what they share is split among them."""
        family = [psutil.Process(), *psutil.Process().children()]
        return sum(process.memory_full_info().pss for process in family)

    def _run(self, position: int, due: float) -> None:
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            self.values[position] += 1
            self.last_latenesses[position] = time.monotonic() - due
            self.cpus_s[position] = time.process_time()
            due += INTERVAL_S


class Floor(Engine):
    """What Python cannot go below: a timer for each bucket and a plain loop over objects, without any tasks."""

    grid_s = GRID_S

    def __init__(self, n: int, *, in_phase: bool) -> None:
        super().__init__(n, in_phase=in_phase)
        self.runner = LoopRunner()
        self.stopped = False

    def start(self) -> None:
        """Submit one coroutine that makes all counters and timers."""
        self.runner.submit(self._start_all())

    def stop(self) -> None:
        """Have no timer set again."""
        self.stopped = True

    def has_ended(self, position: int) -> bool:
        """Tell whether it was stopped, for that is all there is to it."""
        return self.stopped

    def close(self) -> None:
        """Close the loop."""
        self.runner.close()

    async def _start_all(self) -> None:
        buckets: dict[int, list[Counter]] = {}
        began = time.monotonic()
        for position in range(self.n):
            self.counters.append(Counter())
            slot = math.ceil(self.first_due(began, position) / self.grid_s)
            buckets.setdefault(slot, []).append(self.counters[-1])
        for slot, members in buckets.items():
            due = slot * self.grid_s
            asyncio.get_running_loop().call_at(due, self._fire, due, members)

    def count(self, members: list[Counter]) -> None:
        """Count, once each."""
        for counter in members:
            counter.value += 1

    def _fire(self, due: float, members: list[Counter]) -> None:
        self.count(members)
        loop = asyncio.get_running_loop()
        self.latenesses.append(loop.time() - due)
        if not self.stopped:
            loop.call_at(due + INTERVAL_S, self._fire, due + INTERVAL_S, members)


class FloorWithCalls(Floor):
    """The same with what the jobs of all others do at each beat: ask whether the target is reached, and add."""

    def count(self, members: list[Counter]) -> None:
        """Count, once each."""
        for counter in members:
            if not counter.finished:
                counter.add()


class FineFloor(Floor):
    """The same in finer buckets, so that counters are spread more evenly; it wakes up more often."""

    grid_s = FINE_GRID_S


ENGINES: dict[str, type[Engine]] = {
    "ours": Ours,
    "ours on uvloop": OursOnUvloop,
    "asyncio.sleep(1)": Sleep,
    "asyncio.sleep(1) on uvloop": SleepOnUvloop,
    "asyncio.sleep, deadlines": Deadlines,
    "anyio.sleep_until": AnyioDeadlines,
    "asynclit": Asynclit,
    "a thread each": Threads,
    "a process each": Processes,
    "the floor": Floor,
    "the floor, with the job's calls": FloorWithCalls,
    "the floor, in buckets of 1 ms": FineFloor,
}


# One case


def measure(case: Case) -> Result:
    """Run one case. What did not happen within the time given is None."""
    engine = ENGINES[case["engine"]](case["n"], in_phase=case["in_phase"])
    engine.prepare()
    memory = engine.memory()
    began = time.monotonic()
    engine.start()
    start_ms = (time.monotonic() - began) * 1e3
    waited_s = wait_for_all(engine.n, engine.counts)
    time.sleep(WARM_UP_S)
    result = watch(engine, case["window_s"])
    memory_kb = (engine.memory() - memory) / engine.n / 1e3
    stops_s = engine.single_stops() if case["single_stops"] else []
    result |= stop(engine)
    engine.close()
    return result | {
        "start_ms": start_ms,
        "counting_s": None if waited_s is None else start_ms / 1e3 + waited_s,
        "memory_kb": memory_kb if engine.n >= PIECE else None,  # below, it is lost in what the process takes anyway
        "single_stop_p99_ms": scaled(quantile(stops_s, 0.99), 1e3),
    }


def watch(engine: Engine, window_s: float) -> Result:
    """Watch the counters for a whole number of intervals, in which each of them has as many beats."""
    began = time.monotonic()
    before = engine.beats()
    engine.latenesses.clear()
    cpu_s = engine.cpu_s()
    time.sleep(began + window_s - time.monotonic())
    cpu_s = engine.cpu_s() - cpu_s
    beats = engine.beats() - before
    latenesses_s = engine.read_latenesses()
    return {
        "cpu_us": cpu_s / max(1, beats) * 1e6,
        "missing": max(0.0, 1 - beats / (engine.n * window_s / INTERVAL_S)) * 100,
        "p50_ms": scaled(quantile(latenesses_s, 0.5), 1e3),
        "p99_ms": scaled(quantile(latenesses_s, 0.99), 1e3),
    }


def stop(engine: Engine) -> Result:
    """Stop all counters, and wait until they have ended."""
    began = time.monotonic()
    engine.stop()
    stop_ms = (time.monotonic() - began) * 1e3
    waited_s = wait_for_all(engine.n, engine.has_ended)
    return {"stop_ms": stop_ms, "ended_s": None if waited_s is None else stop_ms / 1e3 + waited_s}


def wait_for_all(n: int, is_so: Callable[[int], bool]) -> float | None:
    """Wait until something is so of all positions, and tell how long that took; looks little more than once at each."""
    began = time.monotonic()
    position = 0
    while position < n:
        if is_so(position):
            position += 1
        elif time.monotonic() > began + PATIENCE_S:
            return None
        else:
            time.sleep(0.005)
    return time.monotonic() - began


def scaled(value: float | None, factor: float) -> float | None:
    """Multiply what is known."""
    return None if value is None else value * factor


# All cases


def make_case(engine: str, n: int, *, window_s: float = 3.0, in_phase: bool = False) -> Case:
    """Describe a case; single stops are measured where the issue asks for them."""
    single_stops = engine == "ours" and n == Engine.most
    return {"engine": engine, "n": n, "window_s": window_s, "in_phase": in_phase, "single_stops": single_stops}


def all_cases(*, quick: bool) -> list[Case]:
    """List the cases of one turn."""
    if quick:
        wanted = [(engine, 1_000) for engine in ENGINES]
        wanted += [(engine, 10_000) for engine in ("ours", "asyncio.sleep(1)", "the floor")]
        wanted += [(engine, 100_000) for engine in ("ours", "the floor", "the floor, in buckets of 1 ms")]
        in_phase = ["ours"]
    else:
        wanted = [(engine, n) for n in (100, 1_000, 10_000, 100_000) for engine in ENGINES]
        in_phase = ["ours", "asyncio.sleep, deadlines"]
    cases = [make_case(engine, n) for engine, n in wanted if n <= ENGINES[engine].most]
    return cases + [make_case(engine, 10_000, in_phase=True) for engine in in_phase]


COLUMNS = {
    "CPU µs per beat": "cpu_us",
    "late p50 ms": "p50_ms",
    "late p99 ms": "p99_ms",
    "beats missing %": "missing",
    "memory kB": "memory_kb",
    "start returns ms": "start_ms",
    "all count s": "counting_s",
    "stop returns ms": "stop_ms",
    "all ended s": "ended_s",
}
WITH_RANGE = ("cpu_us", "p99_ms")


def row(title: str, results: list[Result]) -> list[str]:
    """Write one line of the table."""
    cells = []
    for key in COLUMNS.values():
        values = [result[key] for result in results]
        cells.append(spread(values) if key in WITH_RANGE else number(median(values)))
    return [title, *cells]


class Measured:
    """The results of all cases, looked up by engine and number of counters."""

    def __init__(self, cases: list[Case], results: list[list[Result]]) -> None:
        self.cases = list(zip(cases, results, strict=True))

    def values(self, key: str, engine: str, n: int, *, in_phase: bool = False) -> list[float | None]:
        """List what was measured in each turn."""
        for case, results in self.cases:
            if (case["engine"], case["n"], case["in_phase"]) == (engine, n, in_phase):
                return [result[key] for result in results]
        return []

    def ratios(self, one: tuple[str, int], other: tuple[str, int]) -> list[float | None]:
        """Divide the CPU per beat of two cases, turn by turn."""
        pairs = zip(self.values("cpu_us", *one), self.values("cpu_us", *other), strict=False)
        return [a / b if a and b else None for a, b in pairs]

    def loses_beats(self, engine: str, n: int) -> bool:
        """Tell whether more than one beat in a hundred is missing: then the CPU per beat says little."""
        return (median(self.values("missing", engine, n)) or 0.0) > 1

    def print_tables(self) -> None:
        """Print a table for each number of counters, and one for those in phase."""
        for n in sorted({case["n"] for case, _ in self.cases}):
            rows = [row(case["engine"], found) for case, found in self.cases if case["n"] == n and not case["in_phase"]]
            common.print_table([f"{n:,} counters", *COLUMNS], rows)
        rows = [row(case["engine"], results) for case, results in self.cases if case["in_phase"]]
        common.print_table(["10,000 in phase", *COLUMNS], rows)

    def print_targets(self, minutes: list[Result]) -> None:
        """Print what issue 4 says must be reached, beside what was measured."""
        ours = ("ours", 100_000)
        sleep = ("asyncio.sleep(1)", 10_000)
        targets = [
            ("CPU at 10,000, against asyncio.sleep(1) at 10,000", 0.5, self.ratios(("ours", 10_000), sleep)),
            ("CPU at 100,000, against asyncio.sleep(1) at 10,000", 0.2, self.ratios(ours, sleep)),
            ("CPU at 100,000, against the floor", 4, self.ratios(ours, ("the floor", 100_000))),
            (
                "CPU at 100,000, against the floor in buckets of 1 ms",
                4,
                self.ratios(ours, ("the floor, in buckets of 1 ms", 100_000)),
            ),
            ("beats missing at 100,000 over a minute, %", 0.1, [result["missing"] for result in minutes]),
            ("lateness at 100,000, p50, ms", 10, self.values("p50_ms", *ours)),
            ("lateness at 100,000, p99, ms", 100, self.values("p99_ms", *ours)),
            ("lateness at 10,000 in phase, p50, ms", 50, self.values("p50_ms", "ours", 10_000, in_phase=True)),
            ("memory per counter at 100,000, kB", 2.5, self.values("memory_kb", *ours)),
            ("start of 100,000 returns in, ms", 50, self.values("start_ms", *ours)),
            ("start of 100,000: all count after, s", 3, self.values("counting_s", *ours)),
            ("stop of 100,000 returns in, ms", 250, self.values("stop_ms", *ours)),
            ("stop of 100,000: all ended after, s", 5, self.values("ended_s", *ours)),
            ("stop of one among 100,000, p99, ms", 100, self.values("single_stop_p99_ms", *ours)),
        ]
        common.print_targets(targets)

    def draw(self, figure: "Figure") -> None:
        """Draw the CPU per beat over the number of counters; hollow where beats are missing."""
        axes = figure.subplots()
        for engine in ENGINES:
            points = [
                (case["n"], median(self.values("cpu_us", engine, case["n"])), self.loses_beats(engine, case["n"]))
                for case, results in self.cases
                if case["engine"] == engine and not case["in_phase"] and results
            ]
            numbers, cpus_us, losing = zip(*points, strict=True) if points else ((), (), ())
            [line] = axes.plot(numbers, cpus_us, "-o", label=engine, linewidth=3 if engine == "ours" else 1.5)
            hollow = [position for position, loses in enumerate(losing) if loses]
            axes.plot(numbers, cpus_us, "o", color=line.get_color(), markerfacecolor="white", markevery=hollow)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="counters at 1 Hz",
            ylabel="CPU µs per beat (hollow: over 1 % of beats missing)",
        )
        figure.legend(loc="outside right center", frameon=False)


def main() -> None:
    arguments = common.arguments(__doc__)
    if arguments.case:
        print(json.dumps(measure(arguments.case)))
        return
    cases = all_cases(quick=arguments.quick)
    turns = 1 if arguments.quick else 3
    measured = Measured(cases, common.run_in_turns("benchmarks.engines", cases, turns))
    minute = make_case("ours", 100_000, window_s=60.0)
    minutes = [] if arguments.quick else common.run_in_turns("benchmarks.engines", [minute], turns=1)[0]
    print(common.machine("anyio", "uvloop", "asynclit"), "\n")
    measured.print_tables()
    measured.print_targets(minutes)
    common.save_chart("engines", measured.draw)


if __name__ == "__main__":
    main()
