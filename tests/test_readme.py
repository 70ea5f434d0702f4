"""The README's own snippets, run as they stand."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import streamlit as st
from streamlit.testing.v1 import AppTest

import tasks
from loop_runner import LoopRunner
from serving import wait_until

ROOT = Path(__file__).parent.parent


def snippet(mark: str) -> str:
    """Take the code block behind `<!-- mark -->`."""
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found, f"the README has no snippet {mark!r}"
    return textwrap.dedent(found[1])


def test_the_plain_script_prints_done() -> None:
    command = [sys.executable, "-W", "error", "-c", snippet("run")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("done\n", "", 0)


def test_the_job_of_ones_own_runs_to_its_end() -> None:
    names = dict(vars(tasks))
    exec(snippet("job"), names)
    job = names["JOBS"].pop("Download")
    runner = LoopRunner()
    board = tasks.Board(runner)
    [id] = board.start(job, name="mine", target=100)
    wait_until(lambda: board.detail(id).row.state == tasks.State.DONE)
    assert board.detail(id).row.value == 100
    assert "piece 99 is here from the net" in [text for _, text in board.detail(id).log]
    assert board.detail(id).result == "'all is here'"
    runner.close()


def test_an_async_client_is_awaited_over_reruns() -> None:
    page = AppTest.from_string(snippet("await"), default_timeout=20)
    for _ in range(3):
        page.run()
        assert not page.exception
        assert page.markdown[0].value == "got apples"
    st.cache_resource.clear()


def test_every_test_that_the_readme_names_exists() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", (ROOT / "README.md").read_text()):
        assert f"def {name}(" in tests, name
