"""What the boards in other frameworks show: the columns of our table, from the same board."""

import threading
import time
from datetime import UTC, datetime
from typing import Any

from loop_runner import LoopRunner
from tasks import Board, Row, count

COLUMNS = ("name", "state", "value", "progress", "history", "job", "interval", "late", "whose", "started", "note")
ROWS = 50


def make_board(n: int) -> Board:
    """Start `n` counters on a board of their own, and wait until the first of them count."""
    board = Board(LoopRunner())
    board.start(count, name="c", n=n)
    while threading.main_thread().is_alive() and not board.totals().ticks:
        time.sleep(0.05)
    return board


def rows(board: Board) -> list[dict[str, Any]]:
    """Give the first rows as JSON can hold them; the history, which has no column of its own there, as text."""
    return [cells(row) for row in board.page(limit=ROWS).rows]


def cells(row: Row) -> dict[str, Any]:
    values = (
        row.name,
        str(row.state),
        row.value,
        None if row.target is None else row.value * 100 // row.target,
        " ".join(f"{value:g}" for value in row.history),
        row.job,
        row.interval_s,
        round(row.lateness_s * 1000, 1),
        "mine" if row.private else "everyone's",
        datetime.fromtimestamp(row.started_at, UTC).isoformat(timespec="seconds"),
        row.error or row.where or "",
    )
    return dict(zip(COLUMNS, values, strict=True))


def numbers(board: Board) -> list[str]:
    """Give the four numbers above the table."""
    totals, health = board.totals(), board.runner.health()
    return [
        f"{totals.states['running']:,} running",
        f"{totals.ticks_per_s:,.0f} ticks per second",
        f"{health.lag_p99_s * 1000:.1f} ms loop lag, p99",
        f"{totals.states['failed']:,} failed",
    ]
