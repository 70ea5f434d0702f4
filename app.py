"""The page of the board: start counters, watch them live, stop them, from any number of browsers.

`streamlit run app.py` starts this file twice over: once as a server (at the very end), so that whatever runs is
stopped cleanly when the server shuts down, and then as a Streamlit script, from the top, at every rerun.
"""

import inspect
import math
import re
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal, NotRequired, TypedDict, cast

import pyarrow as pa
import streamlit as st
from streamlit import runtime

from loop_runner import LoopHealth
from tasks import (
    ACTIVE,
    ENDED,
    JOBS,
    Board,
    Detail,
    Option,
    Page,
    Row,
    State,
    Totals,
    adopt,
    function_of,
    lifespan,
    options_of,
    release,
    shared_board,
)

Color = Literal["violet", "green", "yellow", "orange", "gray", "blue", "red"]

ROWS = 50  # on a page of the table
CARDS = 12  # on a page of cards; as long as there are no more counters, cards are what a visitor sees first
SHARED_S = 0.5  # for so long those who are shown the same rows share what was read and made of them
COLORS: dict[State, Color] = {
    State.QUEUED: "violet",
    State.RUNNING: "green",
    State.STOPPING: "yellow",
    State.STUCK: "orange",
    State.STOPPED: "gray",
    State.DONE: "blue",
    State.FAILED: "red",
}
ICONS = {
    State.QUEUED: ":material/schedule:",
    State.RUNNING: ":material/play_arrow:",
    State.STOPPING: ":material/hourglass_top:",
    State.STUCK: ":material/warning:",
    State.STOPPED: ":material/stop:",
    State.DONE: ":material/check:",
    State.FAILED: ":material/error:",
}
OUTDATED = "runs code from before an edit"
LABELS = {"n": "The number", "name": "The name", "interval_s": "The interval", "target": "The target"}


class Memory(TypedDict):
    """What the page notes for one visitor; plain, so that an edit of this file does not harm it."""

    owner: str
    told: list[tuple[str, str]]  # toasts to be shown: text and icon
    again: NotRequired[list[tuple[str, str]]]  # those shown once
    ids: list[int]  # of the rows of the table
    positions: list[int]  # of the selected rows
    selected: list[int]  # their ids
    last: NotRequired[int]  # the number of pages
    open: NotRequired[int | None]  # the counter whose details are shown
    view_chosen: NotRequired[bool]  # by the visitor
    error: NotRequired[str | None]  # of the form


# The loop is made once for the whole server, by a function of two lines: an edit of it would make another entry in
# the cache, which is why it only asks for the board that is there already.
@st.cache_resource(on_release=release, validate=lambda board: not board.runner.closed, show_spinner=False)
def cached_board() -> Board:
    return shared_board()


def the_board() -> Board:
    return adopt(cached_board())


def memory() -> Memory:
    """Give what outlives a rerun of this visitor's page beside the widgets; "Clear cache" empties it."""
    if (kept := st.session_state.get("memory")) is None:
        kept = st.session_state.memory = Memory(owner=secrets.token_hex(8), told=[], ids=[], positions=[], selected=[])
    return cast(Memory, kept)


def owner() -> str:
    """Give what tells this visitor's private counters apart."""
    return memory()["owner"]


def page() -> None:
    st.set_page_config(page_title="Live counters", page_icon=":material/timer:", layout="wide")
    with st.sidebar:
        form()
    st.title("Live counters")
    toolbar()
    pagination()  # in a row of its own: beside others it leaves pages out
    live(the_board())


# The sidebar


def form() -> None:
    about = "\n\n".join(f"**{name}** · {inspect.getdoc(function_of(job)) or ''}" for name, job in JOBS.items())
    with st.form("new", border=False):
        st.subheader("Start counters")
        st.selectbox("Job", JOBS, key="new_job", help=about)
        st.text_input("Name", "counter", key="new_name")
        left, right = st.columns(2)
        left.number_input("How many", value=1, key="new_n")
        right.number_input("Seconds between", value=1.0, step=0.5, key="new_interval_s")
        for name, job in JOBS.items():  # a form cannot follow what is chosen in it, so it shows the options of all
            if options := options_of(job):
                with st.expander(f"Options of {name}", icon=":material/tune:"):
                    for option in options:
                        field(name, option)
        st.number_input(
            "Stop at", value=None, step=1, key="new_target", placeholder="never", help="Empty: it counts for ever."
        )
        st.checkbox("Private", key="new_private", help="Only you see it. It stops 2 minutes after you have left.")
        st.form_submit_button(
            "Start", key="start", on_click=start, type="primary", icon=":material/play_arrow:", width="stretch"
        )
    if error := memory().get("error"):
        st.error(error, icon=":material/error:")


def field(job: str, option: Option) -> None:
    """Ask for one option of a job, with the widget that fits its type."""
    label, key = option.name.replace("_", " ").capitalize(), f"option_{job}_{option.name}"
    if option.choices:
        index = option.choices.index(option.default) if option.default in option.choices else 0
        words = {choice: str(getattr(choice, "value", choice)) for choice in option.choices}
        st.selectbox(label, option.choices, index, key=key, format_func=lambda choice: words.get(choice, str(choice)))
    elif option.kind is bool:
        st.checkbox(label, bool(option.default), key=key)
    elif option.kind is str:
        st.text_input(label, str(option.default or ""), key=key)
    elif option.kind is int:
        st.number_input(label, value=cast("int | None", option.default), step=1, key=key)
    else:
        st.number_input(label, value=cast("float | None", option.default), format="%g", key=key)


def start() -> None:
    new = st.session_state
    job = JOBS[new.new_job]
    try:
        ids = the_board().start(
            job,
            name=new.new_name,
            n=new.new_n,
            interval_s=new.new_interval_s,
            target=new.new_target,
            owner=owner() if new.new_private else None,
            options={option.name: new[f"option_{new.new_job}_{option.name}"] for option in options_of(job)},
        )
    except (ValueError, RuntimeError) as error:
        first, _, rest = str(error).partition(" ")
        memory()["error"] = f"{LABELS.get(first, first.capitalize())} {rest}."
    else:
        memory()["error"] = None
        tell(f"Started {counters(len(ids))}.", ":material/play_arrow:")


# What is not refreshed, for each element that is costs the server a twentieth more


def toolbar() -> None:
    """Show what chooses, and what acts on all."""
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        st.text_input(
            "Search",
            key="match",
            type="search",
            live=True,  # a quarter of a second after the last letter
            placeholder="Search",
            label_visibility="collapsed",
            on_change=first_page,
            bind="query-params",
            width=125,
        )
        st.pills(
            "States",
            [str(state) for state in State],
            key="states",
            selection_mode="multi",
            label_visibility="collapsed",
            on_change=first_page,
            bind="query-params",
        )
        if not memory().get("view_chosen"):
            st.session_state.view = fitting_view(the_board().page(limit=0, owner=owner()))
        st.segmented_control(
            "View", ["Cards", "Table"], key="view", required=True, label_visibility="collapsed", on_change=choose_view
        )
        filtered = any(filters().values())
        st.button(
            "Stop matching" if filtered else "Stop all", key="stop_all", icon=":material/stop:", on_click=stop_all
        )
        st.button(
            "Remove matching ended" if filtered else "Remove ended",
            key="remove_ended",
            icon=":material/delete_sweep:",
            on_click=remove_ended,
        )


def fitting_view(shown: Page) -> str:
    """Say how to show the counters to a visitor who has not chosen: as cards for as long as they are few."""
    return "Cards" if sum(shown.states.values()) <= CARDS else "Table"


def pagination() -> None:
    """Show which pages there are, if there are several."""
    last = memory()["last"] = last_page(the_board().page(limit=0, owner=owner(), **filters()))
    if st.session_state.get("page", 1) > last:
        st.session_state.page = last
    if last > 1:
        st.pagination(last, key="page", bind="query-params")


def size_of_page() -> int:
    return CARDS if st.session_state.get("view") == "Cards" else ROWS


def last_page(shown: Page) -> int:
    return max(1, math.ceil(shown.matched / size_of_page()))


# The part that refreshes: every second, and at a click in it, without the rest of the page


@st.fragment(run_every=1.0)
def live(board: Board) -> None:
    if board.runner.closed:
        st.rerun()  # the whole page, which gets the board of now: somebody cleared the cache
    kept = memory()
    board.renew(kept["owner"])
    toasts(kept)
    size, first = size_of_page(), st.session_state.get("page", 1) - 1
    shown = board.page(offset=first * size, limit=size, owner=kept["owner"], max_age_s=SHARED_S, **filters())
    fits = kept.get("view_chosen") or st.session_state.get("view") == fitting_view(shown)
    if not fits or last_page(shown) != kept.get("last"):
        st.rerun()  # the whole page, for the switch and the pagination are outside
    totals, health = board.totals(), board.runner.health()
    metrics(totals, health, hidden=sum(totals.states.values()) - sum(shown.states.values()))
    notice(health)
    if not shown.rows:
        nothing(shown)
    elif size == CARDS:
        cards(shown.rows, kept.get("open"))
    else:
        table(shown, kept)
        act_on_selection(shown.rows, kept)
    detail(board, kept)


def toasts(kept: Memory) -> None:
    """Show what was told, in two refreshes: a busy browser may not draw the first before the second has come.

    A toast that is on the screen already is not drawn again.
    """
    for text, icon in kept["told"] or kept.get("again", []):
        st.toast(text, icon=icon)
    kept["again"], kept["told"] = kept["told"], []


def metrics(totals: Totals, health: LoopHealth, hidden: int) -> None:
    states = totals.states
    running, ended = sum(states[state] for state in ACTIVE), sum(states[state] for state in ENDED)
    lags_ms = [seconds * 1000 for seconds in health.lag_history_s]
    lag = f"How late the loop answers, over the last minute. Median: {milliseconds(health.lag_p50_s)}."
    late = (
        f"Beats came {milliseconds(totals.lateness_p50_s)} late (median), {milliseconds(totals.lateness_p99_s)} (p99)."
    )
    cell = partial(st.metric, border=True, height="stretch")
    with st.grid(4, min_column_width=180):
        cell(
            "Running",
            f"{running:,}",
            f"{hidden:,} private to others" if hidden else None,
            delta_color="off",
            delta_arrow="off",
            chart_data=totals.running_history,
            help="On this server. Those that are stopping or stuck still run.",
        )
        cell("Ticks per second", f"{totals.ticks_per_s:,.0f}", chart_data=totals.ticks_history, help=late)
        cell("Loop lag, p99", milliseconds(health.lag_p99_s), chart_data=lags_ms, help=lag)
        cell("Ended / failed", f"{ended:,} / {states[State.FAILED]:,}", chart_data=totals.ended_history)


def notice(health: LoopHealth) -> None:
    """Say what blocks the loop, or did."""
    if block := health.blocked:
        st.warning(
            f"The loop has been blocked for {block.seconds:.1f} s by {literal(block.who)}"
            f" at {literal(block.where)}. No counter can beat until it goes on.",
            icon=":material/block:",
        )
    elif health.recent_blocks:
        with st.expander(f"The loop was blocked lately ({len(health.recent_blocks)})", icon=":material/block:"):
            for block in reversed(health.recent_blocks):
                st.markdown(f"{block.seconds:.1f} s by {literal(block.who)} at {literal(block.where)}")


def nothing(shown: Page) -> None:
    if sum(shown.states.values()):
        st.info("No counter matches. Clear the search and the states to see all.", icon=":material/filter_alt_off:")
    else:
        st.info(
            "No counters yet. Start one with the form on the left: it counts on the server, and goes on when you"
            " reload or close this page. Everyone who opens the page sees it and can stop it.",
            icon=":material/timer:",
        )


def cards(rows: Sequence[Row], opened: int | None) -> None:
    with st.grid(4, min_column_width=230):
        for row in rows:
            with st.container(border=True, height="stretch"):
                card(row, opened=row.id == opened)


def card(row: Row, *, opened: bool) -> None:
    st.text(row.name)
    whose = " · private" if row.private else ""
    st.metric(
        f"{row.job} · every {row.interval_s:g} s{whose}",
        f"{row.value:,}",
        f"{ICONS[row.state]} {row.state}",
        delta_color=COLORS[row.state],
        delta_arrow="off",
        chart_data=row.history,
    )
    if note := row.error or row.where:
        st.markdown(literal(note))
    if row.outdated:
        st.badge(OUTDATED, icon=":material/history:", color="yellow")
    if row.target is not None:
        st.progress(progress(row) or 0, f"{row.value:,} of {row.target:,}")
    with st.container(horizontal=True):
        if row.state in ACTIVE:
            disabled = row.state == State.STOPPING
            button("Stop", "stop", stop, row, disabled=disabled)
        else:
            button("Restart", "restart_alt", restart, row)
            button("Remove", "delete", remove, row)
        st.button(
            "Close" if opened else "Details",
            key=f"open_{row.id}",
            on_click=open_detail,
            args=(None if opened else row.id,),
            type="tertiary",
        )


def button(label: str, icon: str, act: Callable[[Sequence[int]], None], row: Row, *, disabled: bool = False) -> None:
    st.button(
        label,
        key=f"{label.lower()}_{row.id}",
        icon=f":material/{icon}:",
        on_click=act,
        args=([row.id],),
        disabled=disabled,
        type="tertiary",
    )


def table(shown: Page, kept: Memory) -> None:
    keep_selection([row.id for row in shown.rows], kept)
    st.dataframe(
        shown.kept.get("table") or shown.kept.setdefault("table", columns(shown.rows)),
        key="table",
        on_select="rerun",
        selection_mode="multi-row",
        hide_index=True,
        height=35 * (min(len(shown.rows), 15) + 1) + 3,
        column_config=COLUMNS,
        alt="The counters: name, state, value, progress and more, one row each",
    )


def act_on_selection(rows: Sequence[Row], kept: Memory) -> None:
    """Show what can be done with the selected counters."""
    chosen = kept["selected"]
    kept["open"] = chosen[0] if len(chosen) == 1 else None
    if not chosen:
        return
    states = [row.state for row in rows if row.id in chosen]
    with st.container(horizontal=True, vertical_alignment="center"):
        for label, icon, act, fit in (
            ("Stop", "stop", stop, (State.QUEUED, State.RUNNING, State.STUCK)),
            ("Restart", "restart_alt", restart, ENDED),
            ("Remove", "delete", remove, ENDED),
        ):
            st.button(
                f"{label} selected",
                key=f"{label.lower()}_selected",
                icon=f":material/{icon}:",
                on_click=act_on_selected,
                args=(act,),
                disabled=not any(state in fit for state in states),
            )
        st.caption(f"{len(chosen)} selected")


def lean(config: Any) -> Any:
    """Leave out what is None: Streamlit copies and reads all there is at every refresh, for a twelfth of its time."""
    return {key: lean(value) for key, value in config.items() if value is not None} if type(config) is dict else config


COLUMNS: dict[str, Any] = lean(
    {
        "name": st.column_config.TextColumn("Name", pinned=True),
        "state": st.column_config.MultiselectColumn(
            "State", options=list(COLORS), color=list(COLORS.values()), width="small"
        ),
        "value": st.column_config.NumberColumn("Value", format="localized"),
        "progress": st.column_config.ProgressColumn("Progress", min_value=0, max_value=100, format="%d %%"),
        "history": st.column_config.LineChartColumn("Last 30 s"),
        "job": "Job",
        "interval": st.column_config.NumberColumn("Every", format="%g s"),
        "late": st.column_config.NumberColumn("Late", format="%.1f ms", help="How late its last beat came"),
        "whose": "Whose",
        "started": st.column_config.DatetimeColumn("Started", format="distance"),
        "note": st.column_config.TextColumn("Note", help="The error of a failed one; where a stuck one stands"),
    }
)


def columns(rows: Sequence[Row]) -> pa.Table:
    made: dict[str, tuple[list[object], pa.DataType]] = {
        "name": ([row.name for row in rows], pa.string()),
        "state": ([[row.state] for row in rows], pa.list_(pa.string())),
        "value": ([row.value for row in rows], pa.int64()),
        "progress": ([progress(row) for row in rows], pa.int32()),
        "history": ([row.history for row in rows], pa.list_(pa.float64())),
        "job": ([row.job for row in rows], pa.string()),
        "interval": ([row.interval_s for row in rows], pa.float64()),
        "late": ([row.lateness_s * 1000 for row in rows], pa.float64()),
        "whose": (["mine" if row.private else "everyone's" for row in rows], pa.string()),
        "started": ([int(row.started_at * 1000) for row in rows], pa.timestamp("ms", "UTC")),
        "note": ([row.error or row.where or (OUTDATED if row.outdated else "") for row in rows], pa.string()),
    }
    return pa.table({name: pa.array(values, kind) for name, (values, kind) in made.items()})


def keep_selection(ids: list[int], kept: Memory) -> None:
    """Move the selection to where its counters stand now, if the rows are not those of the last refresh."""
    note_selection(kept)
    if ids != kept["ids"]:
        kept["ids"] = ids
        kept["selected"] = [id for id in kept["selected"] if id in ids]
        kept["positions"] = positions = [ids.index(id) for id in kept["selected"]]
        st.session_state.table = {"selection": {"rows": positions, "columns": [], "cells": []}}


def note_selection(kept: Memory) -> None:
    """Note the ids of the selected rows: the table tells positions, which are made ids as soon as they change."""
    positions = list(st.session_state.get("table", {}).get("selection", {}).get("rows", []))
    if positions != kept["positions"]:
        kept["positions"] = positions
        kept["selected"] = [kept["ids"][position] for position in positions if position < len(kept["ids"])]


def detail(board: Board, kept: Memory) -> None:
    if (id := kept.get("open")) is None:
        return
    try:
        found = board.detail(id)
    except KeyError:
        kept["open"] = None
        st.info("This counter was removed in the meantime.", icon=":material/delete:")
        return
    with st.container(border=True):
        describe(found)


def describe(found: Detail) -> None:
    row = found.row
    with st.container(horizontal=True, vertical_alignment="center"):
        st.text(row.name, width="content")
        st.badge(row.state, icon=ICONS[row.state], color=COLORS[row.state])
        st.caption(
            f"counter {row.id} · {row.job} · every {row.interval_s:g} s · "
            + (f"until {row.target:,} · " if row.target else "")
            + ("private" if row.private else "everyone's")
            + (f" · {OUTDATED}: restart it to run the new code" if row.outdated else "")
        )
    if row.where:
        st.warning(f"It does not stop. It stands at {literal(row.where)}.", icon=":material/warning:")
    if found.options:
        st.caption("Options: " + ", ".join(literal(f"{name} = {value}") for name, value in found.options.items()))
    if found.result is not None:
        st.caption(f"Result: {literal(found.result)}")
    left, right = st.columns(2)
    with left:
        st.caption(f"Value, the last {len(row.history)} seconds")
        st.line_chart(row.history, height=220, x_label="seconds", y_label="value", alt=f"Value of counter {row.id}")
    with right:
        st.caption("Log")
        lines = [f"{datetime.fromtimestamp(when):%H:%M:%S}  {text}" for when, text in found.log]
        st.code("\n".join(lines[::-1]), language=None, height=220)
    if found.traceback:
        st.caption("Traceback")
        st.code(found.traceback, language="python", height=320)


# What clicks do. What a command did shows on the page in the same rerun; a toast says it in words.


def stop(ids: Sequence[int]) -> None:
    act(the_board().stop, ids, "Stopping")


def restart(ids: Sequence[int]) -> None:
    act(the_board().restart, ids, "Restarted")


def remove(ids: Sequence[int]) -> None:
    act(the_board().remove, ids, "Removed")


def act(command: Callable[[Sequence[int]], int], ids: Sequence[int], done: str) -> None:
    try:
        n = command(ids)
    except (KeyError, ValueError, RuntimeError) as error:
        tell(literal(str(error.args[0])), ":material/error:")
    else:
        rest = f" {counters(len(ids) - n)} needed nothing." if n < len(ids) else ""
        tell(f"{done} {counters(n)}.{rest}" if n else "Nothing to do: somebody was faster.", ":material/check:")


def act_on_selected(act: Callable[[Sequence[int]], None]) -> None:
    kept = memory()
    note_selection(kept)
    act(kept["selected"])


def stop_all() -> None:
    if ids := those_in(ACTIVE):
        stop(ids)
    else:
        tell("Nothing is running.", ":material/info:")


def remove_ended() -> None:
    if ids := those_in(ENDED):
        remove(ids)
    else:
        tell("Nothing has ended.", ":material/info:")


def those_in(wanted: Sequence[State]) -> Sequence[int]:
    """List the ids of the counters in these states that the filter lets through."""
    chosen = filters()
    states = [state for state in wanted if not chosen["states"] or state in chosen["states"]]
    return the_board().ids(match=chosen["match"], states=states, owner=owner()) if states else []


def tell(text: str, icon: str) -> None:
    """Have a toast shown by the run that follows: a callback of a fragment must not show anything itself."""
    memory()["told"].append((text, icon))


def first_page() -> None:
    st.session_state.page = 1


def choose_view() -> None:
    memory()["view_chosen"] = True


def open_detail(id: int | None) -> None:
    memory()["open"] = id


# Words and values


class Filters(TypedDict):
    match: str
    states: Sequence[str]


def filters() -> Filters:
    return {"match": st.session_state.get("match", ""), "states": st.session_state.get("states", [])}


def progress(row: Row) -> int | None:
    """Say how far a counter with a target is, in percent."""
    return None if row.target is None else min(100, max(0, row.value * 100 // row.target))


def counters(n: int) -> str:
    return "1 counter" if n == 1 else f"{n:,} counters"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def literal(text: str) -> str:
    """Show text as it is inside Markdown, whatever it holds: as code, behind more backticks than it has itself."""
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}"


if not runtime.exists():
    if __name__ != "__mp_main__":  # that is a worker process, which only wants what this file imports
        columns([])  # has pyarrow load pandas now, and not when the first visitor comes
        app = st.App(__file__, lifespan=lifespan)  # `streamlit run` finds this, and serves it
elif __name__ == "__main__":  # else it was imported: by an app with jobs of its own, which calls page() itself
    page()
