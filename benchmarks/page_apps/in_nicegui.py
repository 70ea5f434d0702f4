"""The board in NiceGUI: `python in_nicegui.py PORT COUNTERS`. A timer for each visitor updates a table."""

import sys

from board import COLUMNS, make_board, numbers, rows
from nicegui import ui


@ui.page("/")
def page() -> None:
    """Show four numbers and a table, and update them every second."""
    with ui.row():
        labels = [ui.label(text) for text in numbers(board)]
    columns = [{"name": name, "label": name.capitalize(), "field": name} for name in COLUMNS]
    table = ui.table(columns=columns, rows=rows(board), row_key="name")

    def refresh() -> None:
        for label, text in zip(labels, numbers(board), strict=True):
            label.text = text
        table.rows = rows(board)

    ui.timer(1.0, refresh)


board = make_board(int(sys.argv[2]))
ui.run(host="127.0.0.1", port=int(sys.argv[1]), reload=False, show=False)
