"""A real `streamlit run app.py` in a process of its own, on a copy of the product that a test may edit."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
PRODUCT = ("app.py", "loop_runner.py", "tasks.py", ".streamlit")

# Python runs this when the server starts: a window through which a test looks at what is inside.
WINDOW = """
import os, sys, threading
if "streamlit" in " ".join(sys.orig_argv) and "WINDOW" in os.environ:
    import json, socketserver
    class Look(socketserver.StreamRequestHandler):
        def handle(self):
            board = vars(threading.main_thread()).get("shared_board")
            answer = eval(self.rfile.readline(), {"threading": threading, "sys": sys, "board": board})
            self.wfile.write(json.dumps(answer, default=str).encode())
    window = socketserver.ThreadingUnixStreamServer(os.environ["WINDOW"], Look)
    window.daemon_threads = True
    threading.Thread(target=window.serve_forever, daemon=True, name="window").start()
"""


def wait_until(condition: Callable[[], Any], timeout_s: float = 20.0, every_s: float = 0.05) -> Any:
    """Wait for the condition to give something true; return that, or fail."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {condition}"
        time.sleep(every_s)
    return found


class Server:
    """`streamlit run app.py` in a folder of its own."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder / "product"
        self.folder.mkdir()
        for name in PRODUCT:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.folder / name)
            else:
                shutil.copy(ROOT / name, self.folder / name)
        (folder / "window").mkdir()
        (folder / "window" / "sitecustomize.py").write_text(WINDOW)
        self.window = folder / "w"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_file = folder / "server.log"
        self.flags = flags
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Server":
        """Start it and wait until it answers."""
        command = [str(Path(sys.executable).with_name("streamlit")), "run", "app.py"]
        options = ["--server.headless=true", "--server.address=127.0.0.1", f"--server.port={self.port}"]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *options, "--server.enableAgentApi=true", *self.flags],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(self.window.parent / "window"), "WINDOW": str(self.window)},
                start_new_session=True,
            )
        wait_until(self.healthy, 30)
        return self

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def look(self, expression: str) -> Any:
        """Evaluate an expression inside the server: `board` is the shared one, `threading` the module."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(self.window))
            connection.sendall(expression.encode() + b"\n")
            return json.loads(b"".join(iter(lambda: connection.recv(65536), b"")) or b"null")

    def loop_threads(self) -> list[str]:
        """List the event-loop threads inside the server."""
        names: list[str] = self.look("[t.name for t in threading.enumerate()]")
        return [name for name in names if name == "counters"]

    def states(self) -> dict[str, int]:
        """Count the counters in each state, leaving out the zeros."""
        return {
            state: n for state, n in self.look("{str(s): n for s, n in board.totals().states.items()}").items() if n
        }

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        """Rewrite one of the product's files."""
        path = self.folder / name
        text = change(path.read_text())
        assert text != path.read_text(), "the edit changes nothing"
        path.write_text(text)

    def stop(self, sign: int = signal.SIGTERM, timeout_s: float = 15) -> int:
        """Send a signal and wait for the end; return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(sign)
        return self.process.wait(timeout_s)

    def children(self) -> list[psutil.Process]:
        """List the server's worker processes."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> None:
        """End it and all that it left, whatever its state."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait(10)


class Visitor:
    """A session with the page over Streamlit's agent API: the real app, without a browser."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.session: str | None = None
        self.tree: Any = self.ask()

    def ask(self, **request: Any) -> Any:
        body = {**({"session_id": self.session} if self.session else {}), **request}
        call = urllib.request.Request(
            f"{self.server.url}/_stcore/agent/interact",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(call, timeout=30) as answer:
            snapshot = json.load(answer)
        self.session = snapshot["session_id"]
        self.tree = snapshot["tree"]
        assert snapshot["status"] == "ready", json.dumps(snapshot)[:3000]
        assert "exception" not in [element["type"] for element in self.elements()]
        return self.tree

    def click(self, key: str, **values: Any) -> Any:
        return self.ask(widget_state=values, trigger={"key": key})

    def elements(self) -> list[dict[str, Any]]:
        """List all elements of the page, depth first."""
        found: list[dict[str, Any]] = []
        todo = [self.tree]
        while todo:
            element = todo.pop()
            found.append(element)
            todo += reversed(element.get("children", []))
        return found

    def text(self) -> str:
        return json.dumps(self.tree)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
