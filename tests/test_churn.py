"""A minute of visitors who come and go while someone edits and clears: nothing may be left behind."""

import asyncio
from pathlib import Path

from benchmarks.churn import LEASE_S, churn
from serving import Server


def test_a_minute_of_churn_leaves_nothing_behind(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.edit("tasks.py", lambda text: text.replace("lease_s: float = 120.0", f"lease_s: float = {LEASE_S}"))
    try:
        assert asyncio.run(churn(server.start(), 60.0, seed=1))
        server.stop()
        assert "Traceback" not in server.log.partition("Stopping...")[2]
    finally:
        server.kill()
