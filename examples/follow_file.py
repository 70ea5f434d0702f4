"""Follow files as `tail -f` does: a blocking reader in a thread for each, its new lines in the counter's log.

Run it from the root of the repository, and start the job "Follow a file" with the path of one that grows:

    .venv/bin/python -m streamlit run examples/follow_file.py
"""

import os
import time

import streamlit as st

from app import page
from tasks import JOBS, Counter, in_thread, lifespan


def follow(counter: Counter, *, path: str, from_start: bool = False) -> None:
    """Log the new lines of a file, and count them. Stop takes effect within a quarter of a second."""
    with open(path, encoding="utf-8", errors="replace") as file:
        file.seek(0, os.SEEK_SET if from_start else os.SEEK_END)
        line = ""
        while not (counter.stopping or counter.finished):  # a thread cannot be cancelled: it must look
            line += file.readline()
            if line.endswith("\n"):
                counter.log(line.rstrip("\n"))
                counter.add()
                line = ""
            elif os.fstat(file.fileno()).st_size < file.tell():
                counter.log("the file has become shorter: from its start again")
                file.seek(0)
                line = ""
            else:
                time.sleep(0.25)  # not while lines are there: those are read as fast as they come


if __name__ == "__main__":  # Streamlit runs this file from the top at every rerun
    JOBS["Follow a file"] = in_thread(follow)
    page()
else:  # `streamlit run` imports it first, finds this app and serves it: all jobs end cleanly with the server
    app = st.App(__file__, lifespan=lifespan)
