"""What the benchmarks share: cases in processes of their own, run in turns; the machine line; tables and charts."""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
CASE_TIMEOUT_S = 150.0  # unless the case has its own: `timeout_s`

Case = dict[str, Any]
Result = dict[str, Any]


def arguments(description: str | None) -> argparse.Namespace:
    """Read the command line: `--quick`, and `--case`, with which a benchmark calls itself."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases, one turn: about two minutes")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.case:
        logging.disable()  # that something blocks the loop shows in the lateness
    return parsed


# Cases


def run_case(module: str, case: Case) -> Result | None:
    """Run one case in a fresh process and return its result; None when it failed or took too long."""
    command = [sys.executable, "-m", module, "--case", json.dumps(case)]
    # In a group of its own, so that whatever the case starts can be ended with it.
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        output, _ = child.communicate(timeout=case.get("timeout_s", CASE_TIMEOUT_S))
        return json.loads(output.splitlines()[-1]) if child.returncode == 0 else None
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()


def run_in_turns(module: str, cases: Sequence[Case], turns: int) -> list[list[Result]]:
    """Run all cases one after the other, then all again (A B A B): a noisy minute then hurts them alike.

    Gives the results of each case, in the order of the cases. One that fails is not tried again.
    """
    results: list[list[Result]] = [[] for _ in cases]
    given_up: set[int] = set()
    began = time.monotonic()
    for turn in range(turns):
        for position, case in enumerate(cases):
            if position in given_up:
                continue
            progress = f"turn {turn + 1} of {turns}, case {position + 1} of {len(cases)}"
            print(f"{time.monotonic() - began:5.0f} s, {progress}: {case}", file=sys.stderr)
            result = run_case(module, case)
            if result is None:
                print("no result", file=sys.stderr)
                given_up.add(position)
            else:
                results[position].append(result)
    return results


# Numbers and tables


def quantile(values: Sequence[float], q: float) -> float | None:
    """Take the value below which a share `q` of the values lies; None of no values."""
    return sorted(values)[min(len(values) - 1, int(len(values) * q))] if values else None


def median(values: Sequence[float | None]) -> float | None:
    """Take the median; None if a value is missing."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known and len(known) == len(values) else None


def number(value: float | None) -> str:
    """Write a number with three digits, and a dash for none."""
    if value is None:
        return "—"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values: Sequence[float | None]) -> str:
    """Write the median, with minimum and maximum in brackets if there are several values."""
    known = [value for value in values if value is not None]
    middle = number(median(values))
    return middle if len(known) < 2 else f"{middle} ({number(min(known))} to {number(max(known))})"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a GitHub Markdown table: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        return (
            " | ".join([f"| {first}", *(cell.rjust(w) for cell, w in zip(cells[1:], widths[1:], strict=True))]) + " |"
        )

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    print(line(head), line(rule), *map(line, rows), "", sep="\n")


def print_targets(targets: Sequence[tuple[str, float, Sequence[float | None]]]) -> None:
    """Print what must be reached: (what, at most, the value of each turn)."""
    rows = []
    for what, at_most, values in targets:
        measured = median(values)
        mark = "—" if measured is None else "✓" if measured <= at_most else "✗"
        rows.append((what, f"{at_most:g}", spread(values), mark))
    print_table(("what must be reached", "at most", "measured", ""), rows)


def machine(*packages: str) -> str:
    """Describe the machine, Python and the versions of the packages in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].strip() if names else model
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}; {python}, {versions}"


# Charts


def save_chart(name: str, draw: Callable[["Figure"], None]) -> None:
    """Draw a chart and save it as `docs/<name>.svg`."""
    # Here, not above: a case needs no charts, and what it imports is in its heap.
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("svg")
    style: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e5e7eb",
        "svg.fonttype": "none",
        "svg.hashsalt": name,  # the same drawing gives the same file
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8, 4.5), layout="constrained", facecolor="white")
        draw(figure)
        DOCS.mkdir(exist_ok=True)
        path = DOCS / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None})
    print(f"chart: {path.relative_to(ROOT)}")
