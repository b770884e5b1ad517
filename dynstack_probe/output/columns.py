# SPDX-License-Identifier: GPL-2.0-or-later
"""A column is declared once; table, CSV and JSON walk the list.

Names are escaped here, by whatever writes them, and nowhere else.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dynstack_probe.text import percent, printable, small_percent, spreadsheet_safe

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
U = TypeVar("U")

# How many decimals of a ratio a CSV file holds; of all memory a saving is far smaller.
RATIO_DIGITS, SMALL_RATIO_DIGITS = 6, 9


@dataclass(frozen=True)
class Column(Generic[T_contra]):
    """One figure or name of each row.

    key: in JSON and CSV, with its unit at the end. title: in tables; without one it is not
    shown there. modelled: whether a policy's model made it, else it is measured. write: how
    people read it. digits: how many decimals a CSV file holds.
    """

    key: str
    value: Callable[[T_contra], Any]
    title: str = ""
    write: Callable[[Any], str] = str
    digits: int | None = None
    modelled: bool = False


def ratio(key: str, value: Callable[[T], float], title: str = "") -> Column[T]:
    """A modelled share, as a percentage with two decimals."""
    return Column(key, value, title, percent, RATIO_DIGITS, modelled=True)


def ratio_of_ram(key: str, value: Callable[[T], float], title: str = "") -> Column[T]:
    """A modelled share of all memory, with two digits however small."""
    return Column(key, value, title, small_percent, SMALL_RATIO_DIGITS, modelled=True)


def of(part: Callable[[T], U], columns: Iterable[Column[U]]) -> list[Column[T]]:
    """Columns of a part of each row."""

    def of_part(value: Callable[[U], Any]) -> Callable[[T], Any]:
        return lambda row: value(part(row))

    return [Column(**{**vars(column), "value": of_part(column.value)}) for column in columns]


def as_dict(columns: Sequence[Column[T]], row: T) -> dict[str, Any]:
    """A row for a JSON document."""
    return {column.key: column.value(row) for column in columns}


def titles(columns: Sequence[Column[T]]) -> list[str]:
    """Of those that tables show."""
    return [column.title for column in columns if column.title]


def cells(columns: Sequence[Column[T]], row: T) -> list[str]:
    """What a table shows of a row; `-` where there is nothing to show."""
    values = [(column, column.value(row)) for column in columns if column.title]
    return ["-" if value is None else _shown(column, value) for column, value in values]


def _shown(column: Column[Any], value: Any) -> str:
    return printable(value) if isinstance(value, str | bytes) else column.write(value)


def csv_text(columns: Sequence[Column[T]], rows: Iterable[T]) -> str:
    """A header line and a line a row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([column.key for column in columns])
    for row in rows:
        writer.writerow([_csv(column.value(row), column.digits) for column in columns])
    return buffer.getvalue()


def _csv(value: Any, digits: int | None) -> Any:
    if isinstance(value, str | bytes):
        return spreadsheet_safe(printable(value))
    return value if value is None or digits is None else f"{value:.{digits}f}"


def json_text(document: Mapping[str, Any]) -> str:
    """One trailing newline; every string in it is printable."""
    return json.dumps(_escaped(document), indent=2, ensure_ascii=False) + "\n"


def _escaped(value: Any) -> Any:
    if isinstance(value, str | bytes):
        return printable(value)
    if isinstance(value, Mapping):
        return {_escaped(key): _escaped(one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [_escaped(one) for one in value]
    return value
