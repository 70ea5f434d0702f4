"""A visitor as the server sees one: a websocket that runs the script once, then its fragments every so often."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg


@dataclass
class Session:
    """One open page. `runs` holds (when it was asked for, when it had finished, bytes received) of each run."""

    url: str  # http://host:port
    runs: list[tuple[float, float, int]] = field(default_factory=list)
    fragments: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    widgets: dict[str, str] = field(default_factory=dict)  # the ids of buttons and boxes, by key

    async def open(self) -> None:
        """Connect and run the whole script once."""
        address = self.url.replace("http", "ws", 1) + "/_stcore/stream"
        self.socket = await websockets.connect(
            address, max_size=None, subprotocols=[websockets.Subprotocol("streamlit")]
        )
        await self.run()

    async def run(self, fragment: str = "", *, click: str = "", tick: str = "") -> None:
        """Ask for a run, of one fragment or of the whole script, and wait until it has finished.

        `click` is the key of a button to be clicked, `tick` that of a box to be ticked with it.
        """
        message = BackMsg()
        message.rerun_script.CopyFrom(ClientState(fragment_id=fragment))
        states = message.rerun_script.widget_states.widgets
        if click:
            states.add(id=self.widgets[click], trigger_value=True)
        if tick:
            states.add(id=self.widgets[tick], bool_value=True)
        asked, received = time.monotonic(), 0
        await self.socket.send(message.SerializeToString())
        while True:
            data = await self.socket.recv()
            assert isinstance(data, bytes)
            received += len(data)
            answer = ForwardMsg.FromString(data)
            kind = answer.WhichOneof("type")
            if kind == "auto_rerun":
                self.fragments.append(answer.auto_rerun.fragment_id)
            elif kind == "delta":
                self._note(answer)
            elif kind == "script_finished" and answer.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                break
        self.runs.append((asked, time.monotonic(), received))

    async def refresh_for(self, seconds: float, every_s: float = 1.0) -> None:
        """Refresh the fragment as a browser does: every second, later when a refresh takes longer."""
        end = time.monotonic() + seconds
        due = time.monotonic() + every_s
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self.run(self.fragments[-1] if self.fragments else "")
            due = max(due + every_s, time.monotonic())

    async def close(self) -> None:
        """Close the tab."""
        with suppress(Exception):
            await self.socket.close()

    def gaps(self) -> Iterator[float]:
        """List the seconds between the ends of one run and the next."""
        for (_, before, _), (_, after, _) in zip(self.runs, self.runs[1:], strict=False):
            yield after - before

    def _note(self, answer: ForwardMsg) -> None:
        element = answer.delta.new_element
        kind = element.WhichOneof("type")
        if kind == "exception":
            self.errors.append(f"{element.exception.type}: {element.exception.message}")
        elif kind in ("button", "checkbox"):
            widget = getattr(element, kind).id
            self.widgets[widget.rsplit("-", 1)[-1]] = widget
