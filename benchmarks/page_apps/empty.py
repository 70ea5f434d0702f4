"""The least that refreshes: an empty fragment, in the same server, with the same board behind it."""

import streamlit as st
from streamlit import runtime

from tasks import lifespan, shared_board


@st.fragment(run_every=1.0)
def live() -> None:
    """Show nothing, every second."""


if not runtime.exists():
    app = st.App(__file__, lifespan=lifespan)
else:
    shared_board()
    live()
