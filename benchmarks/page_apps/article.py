"""The thread worker of the article, on today's Streamlit: a page that draws itself and runs again every second."""

import threading
import time

import streamlit as st


class Worker(threading.Thread):
    """Counts once a second until it is told to stop."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.value = 0
        self.stopped = threading.Event()
        self.start()

    def run(self) -> None:
        """Count."""
        while not self.stopped.wait(1.0):
            self.value += 1


@st.cache_resource
def workers() -> list[Worker]:
    """Start as many workers as a page of our table has rows."""
    return [Worker(f"worker {number}") for number in range(1, 51)]


st.title("Workers")
for worker in workers():
    name, value, stop = st.columns(3)
    name.text(worker.name)
    value.text(worker.value)
    stop.button("Stop", key=worker.name, on_click=worker.stopped.set, disabled=worker.stopped.is_set())
time.sleep(1)
st.rerun()
