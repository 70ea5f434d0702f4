"""Count primes in worker processes, two counters at a time, with a Stop that takes effect in the middle of a piece.

Run it from the root of the repository, and start the job "Count primes", several times, with a "Stop at" for the bar:

    .venv/bin/python -m streamlit run examples/crunch.py
"""

import math
from typing import Literal

import streamlit as st
from anyio import to_process

from app import page
from tasks import JOBS, Counter, at_most, lifespan


def primes_between(first: int, last: int) -> int:
    """Count the primes from `first` up to, but without, `last`: slowly, and in a process of its own."""
    return sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in range(max(2, first), last))


async def count_primes(counter: Counter, *, piece: Literal[1_000, 10_000, 100_000, 1_000_000] = 10_000) -> int:
    """Count the primes below "Stop at", piece by piece in a worker process. Stop kills the worker, at once."""
    found = 0
    while not counter.finished:
        first = counter.value
        last = first + piece if counter.target is None else min(first + piece, counter.target)
        found += await to_process.run_sync(primes_between, first, last, cancellable=True)
        counter.add(last - first)
        counter.log(f"{found:,} primes below {last:,}")
    return found


if __name__ == "__main__":  # Streamlit runs this file from the top at every rerun
    # A worker process gets a function by its name, from the module where it is: this script is no module, and its
    # functions are new ones after each rerun. So take them from the same file as a module.
    import crunch

    JOBS["Count primes"] = at_most(2, crunch.count_primes)
    page()
else:  # `streamlit run` imports it first, finds this app and serves it: all jobs end cleanly with the server
    app = st.App(__file__, lifespan=lifespan)
