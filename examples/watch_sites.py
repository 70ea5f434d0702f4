"""Watch web sites: one counter for each address, all on one httpx client. Only this example needs httpx.

Run it from the root of the repository, and start a counter for each address with the job "Watch a site":

    .venv/bin/pip install httpx && .venv/bin/python -m streamlit run examples/watch_sites.py
"""

import asyncio
import time
from functools import partial

import httpx
import streamlit as st

from app import page, the_board
from tasks import JOBS, Counter, lifespan


async def watch(
    client: httpx.AsyncClient, counter: Counter, *, url: str, timeout_s: float = 5.0, retries: int = 2
) -> None:
    """Visit an address at every beat: the log tells status and latency, the value counts the good answers."""
    await visit(client, counter, url, timeout_s, retries)
    while not counter.finished:
        await counter.beat()
        await visit(client, counter, url, timeout_s, retries)


async def visit(client: httpx.AsyncClient, counter: Counter, url: str, timeout_s: float, retries: int) -> None:
    """Count one good answer; after a bad one try again, each time after a pause twice as long."""
    pause_s = 0.5
    while not (good := await answers(client, counter, url, timeout_s)) and retries > 0:
        await asyncio.sleep(pause_s)
        pause_s, retries = pause_s * 2, retries - 1
    counter.add(good)


async def answers(client: httpx.AsyncClient, counter: Counter, url: str, timeout_s: float) -> bool:
    """Ask once, log what came of it, and say whether it was good. A site that is down is news, not an error."""
    good, began = False, time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s), client.stream("GET", url) as answer:  # without the body
            good, said = answer.is_success, f"{answer.status_code} {answer.reason_phrase} from {answer.url}"
    except (httpx.HTTPError, TimeoutError) as error:
        said = f"{type(error).__name__} {error}".rstrip()
    counter.log(f"{said} after {(time.perf_counter() - began) * 1000:.0f} ms")
    return good


@st.cache_resource(show_spinner=False)
def the_client() -> httpx.AsyncClient:
    """Make the one client of all sessions and reruns; it lives as long as the board's loop, on which it is used."""
    client = httpx.AsyncClient(follow_redirects=True, timeout=None)  # asyncio.timeout bounds the whole visit
    the_board().runner.at_close(client.aclose)
    return client


if __name__ == "__main__":  # Streamlit runs this file from the top at every rerun
    JOBS["Watch a site"] = partial(watch, the_client())
    page()
else:  # `streamlit run` imports it first, finds this app and serves it: all jobs end cleanly with the server
    app = st.App(__file__, lifespan=lifespan)
