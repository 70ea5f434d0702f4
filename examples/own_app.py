"""An app of one's own: a page that is not ours, with one background job for each visitor.

Copy `loop_runner.py` and `tasks.py` next to it, and `streamlit run own_app.py`; or, from the root of the repository:

    .venv/bin/python -m streamlit run examples/own_app.py
"""

import asyncio
import secrets

import streamlit as st

from tasks import ENDED, Counter, Row, lifespan, shared_board


async def bake(counter: Counter) -> str:
    """Do what takes long: here, wait for twenty cakes."""
    while not counter.finished:
        await asyncio.sleep(0.5)
        counter.add()
        print(f"cake {counter.value} is ready")  # lands in the counter's log
    return "all cakes are ready"


def job_of(me: str) -> Row | None:
    """Find this visitor's job, if there is one."""
    return next((row for row in shared_board().page(limit=1, owner=me).rows if row.private), None)


def start(me: str) -> None:
    """Start this visitor's job, in the place of the one that has ended."""
    job = job_of(me)
    if job is None or job.state in ENDED:
        shared_board().remove([job.id] if job else [])
        shared_board().start(bake, name="cakes", target=20, owner=me)


def stop(id: int) -> None:
    """Stop it; the page shows `stopping` until it has really ended."""
    shared_board().stop([id])


@st.fragment(run_every=1.0)
def live(me: str) -> None:
    """Show this visitor's job and the button that fits; every second, without the rest of the page."""
    shared_board().renew(me)  # two minutes after the last time the job is stopped and forgotten
    job = job_of(me)
    if job is None or job.state in ENDED:
        st.button("Bake twenty cakes", key="start", on_click=start, args=(me,))
    else:
        st.button("Stop", key="stop", on_click=stop, args=(job.id,))
    if job:
        st.progress(job.value / 20, f"{job.value} of 20 cakes, {job.state}")
        st.code("\n".join(text for _, text in shared_board().detail(job.id).log[::-1]), language=None)


if __name__ == "__main__":  # Streamlit runs this file from the top at every rerun
    st.title("Bakery")
    live(st.session_state.setdefault("me", secrets.token_hex(8)))
else:  # `streamlit run` imports it first, finds this app and serves it: all jobs end cleanly with the server
    app = st.App(__file__, lifespan=lifespan)
