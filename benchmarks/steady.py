"""Twenty pages stay open for an hour: does the memory stay flat, and do the counters stay in time?

    python -m benchmarks.steady                  # an hour
    python -m benchmarks.steady --seconds 120

Runs the real server with 10,000 counters and prints every five minutes what it holds. The forced collection after each
run of the script is off (`.streamlit/config.toml`), so this shows whether Python's own collector is enough.
"""

import argparse
import asyncio
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.churn import look
from benchmarks.common import number, print_table
from benchmarks.page import LATE_S, Visitor, gaps_since, refresh
from serving import Server

COUNTERS, SESSIONS = 10_000, 20
HEAD = ("minutes", "MB", "threads", "files", "full collections", "late p99 ms", "lag p99 ms", "gaps over 1.5 s, %")


async def watch(server: Server, seconds: float) -> None:
    visitors = [Visitor(server.url) for _ in range(SESSIONS)]
    for visitor in visitors:
        await visitor.open()
    server.look(f"board.start(sys.modules['tasks'].count, name='c', n={COUNTERS})[0]")
    refreshing = asyncio.create_task(refresh(visitors, seconds + 5))
    began = since = time.monotonic()
    rows = [await asyncio.to_thread(state, server, visitors, began, since)]
    while time.monotonic() - began < seconds:
        since = time.monotonic()
        await asyncio.sleep(min(seconds / 12, 300))
        rows.append(await asyncio.to_thread(state, server, visitors, began, since))
        print(*rows[-1], sep=" | ", flush=True)
    await refreshing
    for visitor in visitors:
        await visitor.close()
    print()
    print_table(HEAD, rows)
    print(
        f"{sum(len(visitor.runs) for visitor in visitors):,} refreshes, errors:",
        *(v.errors for v in visitors if v.errors),
    )


def state(server: Server, visitors: list[Visitor], began: float, since: float) -> list[str]:
    held = look(server, time.monotonic() - began)
    collections = server.look("__import__('gc').get_stats()[2]['collections']")
    late_s, lag_s = server.look("[board.totals().lateness_p99_s, board.runner.health().lag_p99_s]")
    gaps = [gap for visitor in visitors if len(visitor.runs) > 1 for gap in gaps_since(visitor, since)]
    late = sum(gap > LATE_S for gap in gaps) / max(1, len(gaps)) * 100
    values = (
        held["seconds"] / 60,
        held["MB"],
        held["threads"],
        held["files"],
        collections,
        late_s * 1e3,
        lag_s * 1e3,
        late,
    )
    return [number(value) for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            server.start()
            asyncio.run(watch(server, arguments.seconds))
        finally:
            server.stop()
            server.kill()


if __name__ == "__main__":
    main()
