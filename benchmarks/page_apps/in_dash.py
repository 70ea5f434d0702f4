"""The board in Dash: `python in_dash.py PORT COUNTERS`. An interval in the page asks for the table."""

import sys
from typing import Any

from board import COLUMNS, make_board, numbers, rows
from dash import Dash, Input, Output, dash_table, dcc, html

board = make_board(int(sys.argv[2]))
app = Dash(__name__)
columns = [{"name": name.capitalize(), "id": name} for name in COLUMNS]
app.layout = html.Div(
    [
        *(html.Div(id=f"number-{position}") for position in range(4)),
        dash_table.DataTable(columns=columns, id="table"),
        dcc.Interval(id="every", interval=1000),
    ]
)


@app.callback(
    *(Output(f"number-{position}", "children") for position in range(4)),
    Output("table", "data"),
    Input("every", "n_intervals"),
)
def refresh(_: int | None) -> list[Any]:
    """Give what the page shows."""
    return [*numbers(board), rows(board)]


if __name__ == "__main__":
    from waitress import serve

    serve(app.server, host="127.0.0.1", port=int(sys.argv[1]), threads=4)
