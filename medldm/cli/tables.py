"""Tables for a person; a terminal's width where there is one, unbroken lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

WIDE = 240


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print rows of plain text; columns that are empty throughout are left out. Nothing in them is markup."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    kept = [n for n in range(len(columns)) if any(row[n] for row in rows)]
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for n in kept:
        table.add_column(columns[n], overflow="fold")
    for row in rows:
        table.add_row(*(row[n] for n in kept))
    width = None if sys.stdout.isatty() else WIDE
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)


def numbers(values: Sequence[float], mark: str = " x ") -> str:
    return mark.join(f"{value:.6g}" for value in values)
