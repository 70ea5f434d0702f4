"""Visitors come and go, start and stop, while someone edits the code and clears the cache: is anything left behind?

    python -m benchmarks.churn --seconds 1200

Runs the real server on a copy of the product, prints what it holds as time goes by, and at the end whether all is
back where it began.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import websockets

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.sessions import Session  # noqa: E402
from serving import Server  # noqa: E402

LEASE_S = 4.0  # of private counters, in this server
VISITORS = 8  # at once
COLUMNS = ("seconds", "loops", "threads", "files", "tasks", "children", "counters", "MB")
TASKS = "len([t for t in __import__('asyncio').all_tasks(board.runner._loop)])"


async def churn(server: Server, seconds: float, seed: int) -> bool:
    """Churn for so long; return whether all is back in the end."""
    chance = random.Random(seed)
    await settle(server)
    before = look(server, 0)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---:|" * len(COLUMNS))
    tell(before)
    clock = asyncio.get_running_loop().time
    began = clock()
    failures: list[str] = []
    actors = [asyncio.create_task(visit(server, chance, failures)) for _ in range(VISITORS)]
    actors.append(asyncio.create_task(meddle(server, chance)))
    while clock() < began + seconds:
        await asyncio.sleep(min(seconds / 12, 60))
        tell(look(server, clock() - began))
        if died := [actor.exception() for actor in actors if actor.done()]:
            failures += [f"a visitor of this benchmark broke: {error!r}" for error in died]
            break
    for actor in actors:
        actor.cancel()
    await asyncio.wait(actors)
    failures += await settle(server, LEASE_S + 2 if seconds < LONG_S else FORGOTTEN_S)
    after = look(server, clock() - began)
    tell(after)
    races = [failure for failure in failures if failure.startswith(RACE)]
    failures = [failure for failure in failures if not failure.startswith(RACE)]
    slack = SLACK | ({"files": 10} if seconds >= LONG_S else {})
    same = {name: after[name] <= before[name] + more for name, more in slack.items()}
    for name, back in same.items():
        print(f"{'✓' if back else '✗'} {name}: {before[name]:g} before, {after[name]:g} after")
    print(f"{'✗' if failures else '✓'} errors on a page: {failures or 'none'}")
    print(f"  and {len(races)} times Streamlit unloaded a module that another session was just importing")
    return all(same.values()) and not failures


# Streamlit's own thread pool may have grown. It also keeps the sessions of those who left for two minutes, with three
# files each: a long run waits for that, a short one does not count them.
SLACK = {"loops": 0, "threads": 6, "tasks": 0, "children": 0, "counters": 0}
LONG_S, FORGOTTEN_S = 300, 150
RACE = ("ImportError", "ModuleNotFoundError", "KeyError: 'tasks'", "KeyError: 'loop_runner'")


def look(server: Server, seconds: float) -> dict[str, float]:
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    return {
        "seconds": seconds,
        "loops": len(server.loop_threads()),
        "threads": server.look("threading.active_count()"),
        "files": process.num_fds(),
        "tasks": server.look(TASKS),
        "children": len(process.children(recursive=True)),
        "counters": sum(server.states().values()),
        "MB": process.memory_info().rss / 2**20,
    }


def tell(state: dict[str, float]) -> None:
    print("| " + " | ".join(f"{state[name]:,.0f}" for name in COLUMNS) + " |", flush=True)


async def visit(server: Server, chance: random.Random, failures: list[str]) -> None:
    """Come, start or stop something, watch for a while, and go: again and again."""
    while True:
        session = Session(server.url)
        try:
            with suppress(websockets.WebSocketException, OSError):
                await session.open()
                await session.refresh_for(chance.uniform(0, 3))
                if "start" in session.widgets:  # else this page shows an error, which is noted below
                    await session.run(click="start", tick="new_private" if chance.random() < 0.5 else "")
                await session.refresh_for(chance.uniform(0, 3))
                if "stop_all" in session.widgets and chance.random() < 0.3:
                    await session.run(click=chance.choice(("stop_all", "remove_ended")))
                await session.refresh_for(chance.uniform(0, 2))
        finally:
            await session.close()
        failures += session.errors


async def meddle(server: Server, chance: random.Random) -> None:
    """Edit a file, or clear the cache."""
    while True:
        await asyncio.sleep(chance.uniform(3, 8))
        if chance.random() < 0.3:
            await asyncio.to_thread(server.look, "__import__('streamlit').cache_resource.clear()")
        else:
            server.edit(chance.choice(("app.py", "tasks.py", "loop_runner.py")), lambda text: text + "\n# edited\n")


async def settle(server: Server, seconds: float = LEASE_S + 2) -> list[str]:
    """Give the board a fresh start, wait until what has ended is gone, and return the errors met."""
    await asyncio.to_thread(server.look, "__import__('streamlit').cache_resource.clear()")
    errors: list[str] = []
    for wait_s in (seconds, 1.0):  # it is at the next visit that Streamlit forgets those who left long ago
        visitor = Session(server.url)
        await visitor.open()
        await visitor.refresh_for(wait_s)
        await visitor.close()
        errors += visitor.errors
    await asyncio.to_thread(server.look, "__import__('gc').collect()")  # sessions are circles: they wait for this
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        server.edit("tasks.py", lambda text: text.replace("lease_s: float = 120.0", f"lease_s: float = {LEASE_S}"))
        try:
            good = asyncio.run(churn(server.start(), arguments.seconds, arguments.seed))
        finally:
            server.stop()
            server.kill()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
