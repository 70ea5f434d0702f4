"""What the page says, without a browser."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from anyio import to_thread
from streamlit.testing.v1 import AppTest

from serving import wait_until
from tasks import Board, Counter, State, count

APP = str(Path(__file__).parent.parent / "app.py")


@pytest.fixture
def page() -> Iterator[AppTest]:
    yield AppTest.from_file(APP, default_timeout=30).run()
    st.cache_resource.clear()
    vars(threading.main_thread()).pop("shared_board").runner.close()


def the_board() -> Board:
    board: Board = vars(threading.main_thread())["shared_board"]
    return board


def start(page: AppTest, **values: object) -> AppTest:
    """Fill in the form and start."""
    for key, value in values.items():
        widget(page, f"new_{key}").set_value(value)
    page.button(key="start").click().run()
    assert not page.exception
    return page


def widget(page: AppTest, key: str) -> Any:
    return page.get_by_key(key)


def texts(page: AppTest) -> list[str]:
    return [text.value for text in page.text]


def select(page: AppTest, *positions: int) -> AppTest:
    """Select rows of the table, as a browser would tell."""
    page.session_state["table"] = {"selection": {"rows": list(positions), "columns": [], "cells": []}}
    return page.run()


def test_an_empty_board_says_what_to_do(page: AppTest) -> None:
    assert not page.exception
    assert "Start one with the form" in page.info[0].value


def test_a_started_counter_is_on_the_page_in_the_same_run(page: AppTest) -> None:
    start(page, name="apples")
    assert texts(page) == ["apples"]
    assert page.metric[0].value == "1"
    assert page.toast[0].value == "Started 1 counter."


def test_a_toast_is_shown_in_two_refreshes_for_a_browser_that_missed_the_first(page: AppTest) -> None:
    page.button(key="start").click().run()
    assert [toast.value for toast in page.toast] == ["Started 1 counter."]
    assert [toast.value for toast in page.run().toast] == ["Started 1 counter."]
    assert not page.run().toast
    page.button(key="start").click().run()
    page.button(key="stop_all").click().run()  # at once: only what is new is shown
    assert [toast.value for toast in page.toast] == ["Stopping 2 counters."]


def test_a_dozen_show_as_cards_and_more_as_a_table(page: AppTest) -> None:
    start(page, n=12)
    assert len(texts(page)) == 12
    assert not page.dataframe
    start(page, n=1)
    assert len(page.dataframe[0].value) == 13
    assert not texts(page)


def test_the_view_that_a_visitor_chose_stays(page: AppTest) -> None:
    start(page, n=2)
    page.segmented_control(key="view").set_value("Table").run()
    assert len(page.dataframe[0].value) == 2
    start(page, n=1)
    assert len(page.dataframe[0].value) == 3
    page.segmented_control(key="view").set_value("Cards").run()
    start(page, n=20)
    assert len(texts(page)) == 12
    widget(page, "page").set_value(2).run()
    assert len(texts(page)) == 11


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n": 0}, "The number must be a whole number from 1, got 0."),
        ({"n": 200_000}, "No room for 200,000 more: 100,000 of 100,000 places are free; stop some first."),
        ({"interval_s": 0.01}, "The interval must be from 0.05 to 86400 seconds, got 0.01."),
        ({"interval_s": 90_000.0}, "The interval must be from 0.05 to 86400 seconds, got 90000.0."),
        ({"target": 0}, "The target must be a whole number from 1, or nothing for no end, got 0."),
        ({"name": "  "}, "The name must not be empty, got '  '."),
        ({"name": "x" * 81}, "The name must have at most 80 characters, got 81."),
        ({"name": "**a**\x07"}, r"The name must have no control characters or line breaks, got '\x07'."),
    ],
)
def test_bad_input_is_answered_in_words_at_the_form(page: AppTest, values: dict[str, object], words: str) -> None:
    start(page, **values)
    assert [error.value for error in page.error] == [words]
    assert page.metric[0].value == "0"
    start(page, name="good", n=1, interval_s=1.0, target=None)
    assert not page.error


def test_a_card_stops_restarts_and_removes_its_counter(page: AppTest) -> None:
    start(page)
    page.button(key="stop_1").click().run()
    wait_until(lambda: the_board().totals().states[State.STOPPED] == 1)
    page.run()
    page.button(key="restart_1").click().run()
    assert the_board().totals().states[State.RUNNING] == 1
    page.button(key="stop_all").click().run()
    wait_until(lambda: the_board().totals().states[State.STOPPED] == 1)
    page.run()
    page.button(key="remove_1").click().run()
    assert "No counters yet" in page.info[0].value


def test_what_is_selected_is_acted_upon_and_keeps_its_counter_when_rows_vanish(page: AppTest) -> None:
    start(page, n=20)
    select(page, 3, 5)
    page.button(key="stop_selected").click().run()
    wait_until(lambda: the_board().totals().states[State.STOPPED] == 2)
    stopped = [row.name for row in the_board().page(states=[State.STOPPED]).rows]
    assert stopped == ["counter 4", "counter 6"]
    select(page, 5)
    the_board().remove([4])  # another visitor does: what was row 5 is row 4 now
    page.run()
    assert page.session_state["table"]["selection"]["rows"] == [4]
    page.button(key="restart_selected").click().run()
    assert [row.state for row in the_board().page(match="counter 6").rows] == [State.RUNNING]
    assert page.toast[0].value == "Restarted 1 counter."


def test_acting_on_a_counter_that_another_visitor_removed_is_no_error(page: AppTest) -> None:
    start(page, n=20)
    the_board().stop([2])
    wait_until(lambda: the_board().totals().states[State.STOPPED] == 1)
    select(page, 1)
    the_board().remove([2])
    page.button(key="remove_selected").click().run()
    assert not page.exception
    assert page.toast[0].value == "Nothing to do: somebody was faster."


def test_one_selected_row_shows_its_details(page: AppTest) -> None:
    start(page, n=20)
    select(page, 2)
    assert texts(page) == ["counter 3"]
    assert "started" in page.code[0].value


def test_a_failed_counter_shows_its_traceback(page: AppTest) -> None:
    async def fails(counter: Counter) -> None:
        counter.log("I try")
        raise ValueError("no *luck*")

    the_board().start(fails, name="bad")
    wait_until(lambda: the_board().totals().states[State.FAILED] == 1)
    page.run()
    page.button(key="open_1").click().run()
    assert "I try" in page.code[0].value
    assert "ValueError: no *luck*" in page.code[1].value
    the_board().remove([1])
    page.run()
    assert not page.exception


def test_a_stuck_counter_says_where_it_stands(page: AppTest) -> None:
    let_go = threading.Event()

    async def holds(counter: Counter) -> None:
        try:
            await counter.beat()
        finally:
            await to_thread.run_sync(let_go.wait)

    the_board().stop_timeout_s = 0.0
    the_board().start(holds, name="holds")
    page.run()
    page.button(key="stop_1").click().run()
    assert the_board().totals().states[State.STUCK] == 1
    page.button(key="open_1").click().run()
    assert "It stands at" in page.warning[0].value
    assert "in holds" in page.warning[0].value
    let_go.set()
    wait_until(lambda: the_board().totals().states[State.STOPPED] == 1)


def test_search_and_states_choose_the_rows_and_what_stop_all_stops(page: AppTest) -> None:
    start(page, name="apples", n=8)
    start(page, name="pears", n=8)
    page.text_input(key="match").set_value("PEAR").run()
    assert len(page.dataframe[0].value) == 8
    page.button(key="stop_all").click().run()
    wait_until(lambda: the_board().totals().states[State.STOPPED] == 8)
    page.text_input(key="match").set_value("").run()
    widget(page, "states").set_value(["running"]).run()
    assert set(page.dataframe[0].value["name"]) == {f"apples {i}" for i in range(1, 9)}
    page.text_input(key="match").set_value("no such").run()
    assert "No counter matches" in page.info[0].value
    page.button(key="remove_ended").click().run()
    assert the_board().totals().states[State.STOPPED] == 8
    page.text_input(key="match").set_value("").run()
    widget(page, "states").set_value([]).run()
    page.button(key="remove_ended").click().run()
    assert the_board().totals().states[State.STOPPED] == 0


def test_fifty_rows_make_a_page(page: AppTest) -> None:
    start(page, n=120)
    assert list(page.dataframe[0].value["name"]) == [f"counter {i}" for i in range(1, 51)]
    widget(page, "page").set_value(3).run()
    assert list(page.dataframe[0].value["name"]) == [f"counter {i}" for i in range(101, 121)]
    page.text_input(key="match").set_value("counter 1").run()
    assert page.dataframe[0].value["name"][0] == "counter 1"


def test_a_page_in_the_address_is_the_page_shown(page: AppTest) -> None:
    start(page, n=120)
    other = AppTest.from_file(APP, default_timeout=30)
    other.query_params["page"] = "2"
    other.query_params["match"] = "counter"
    other.run()
    assert other.dataframe[0].value["name"][0] == "counter 51"


def test_a_private_counter_is_its_owners_alone(page: AppTest) -> None:
    start(page, name="mine", private=True)
    other = AppTest.from_file(APP, default_timeout=30).run()
    assert texts(page) == ["mine"]
    assert texts(other) == []
    assert "private" in page.metric[4].label
    other.button(key="stop_all").click().run()
    assert the_board().totals().states[State.RUNNING] == 1


@pytest.mark.parametrize("name", ["**bold** :smile: `code`", "<b>html</b> $x$", "\u202eright to left", "😀 :red[x]"])
def test_a_name_shows_as_the_text_it_is(page: AppTest, name: str) -> None:
    start(page, name=name)
    assert texts(page) == [name]
    page.segmented_control(key="view").set_value("Table").run()
    assert list(page.dataframe[0].value["name"]) == [name]


def test_the_page_never_shows_a_traceback_when_the_board_was_closed_under_it(page: AppTest) -> None:
    start(page)
    board = the_board()
    board.runner.close()
    page.button(key="stop_1").click().run()
    assert not page.exception
    assert the_board() is not board
    start(page, name="fresh")
    assert texts(page) == ["fresh"]
    assert count in (record.job for record in the_board()._records.values())
