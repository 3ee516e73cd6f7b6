r"""Results of a benchmark: rows of numbers, what they were made with and on, and the tables that sum them up.

A row is one mapping of names to values: what was run (``method``, ``seed``, ...) and what it scored. A `Table` groups
rows by some of these names and shows each quantity as its mean over the rest, usually the seeds, with the sample
standard deviation

.. math:: \bar q \pm s, \qquad s^2 = \frac{1}{n - 1} \sum_{i=1}^{n} (q_i - \bar q)^2,

where there is more than one; a number without one comes from a single row, or is the same in all. `Results` is all of
a benchmark and is kept as one JSON file of one format for all benchmarks, ``results.json``, beside its tables in
Markdown and its pictures.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

__all__ = ["FILE", "FORMAT", "Picture", "Quantity", "Results", "Table", "find_results", "number"]

FORMAT = "physflow-results-1"
"""The format of the file: a reader refuses any other."""
FILE = "results.json"
"""The name of the file."""
TABLES = "table.md"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Quantity:
    """A quantity of the rows, as a column of a table.

    Attributes:
        name: Its name in the rows.
        label: Its heading.
        unit: ``""``, ``"s"``, or ``"%"`` for a fraction that is shown in per cent.
    """

    name: str
    label: str
    unit: str = ""

    def cell(self, values: Sequence[float | None]) -> str:
        """Mean and standard deviation of the finite ones of some values, and how many are not; a dash for no value.

        Whole numbers that are all the same, such as a count of parameters, are shown with all digits.
        """
        if not self.unit and len(set(values)) == 1 and isinstance(values[0], Integral):
            return f"{int(values[0]):,}"
        factor = 100 if self.unit == "%" else 1
        known = [factor * float(value) for value in values if value is not None and math.isfinite(value)]
        if not known:
            return number(None)
        text = number(known[0]) if len(known) == 1 else _uncertain(statistics.fmean(known), statistics.stdev(known))
        missing = len(values) - len(known)
        return " ".join(part for part in (text, self.unit, f"({missing} missing)" if missing else "") if part)


@dataclass(frozen=True)
class Table:
    """How rows are summed up.

    Attributes:
        title: What the table shows.
        by: The names in the rows that tell its lines apart, in the order in which the rows come.
        quantities: Its columns.
        across: A name in the rows each value of which gets a column of its own; then there is one quantity.
        where: The rows that count: those that have these values.
        note: What must be known to read it.
    """

    title: str
    by: tuple[str, ...]
    quantities: tuple[Quantity, ...]
    across: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if not self.by or not self.quantities:
            raise ValueError(f"a table needs by= and quantities=, got {self.by} and {self.quantities}")
        if self.across is not None and len(self.quantities) != 1:
            raise ValueError(f"a table across {self.across!r} shows one quantity, got {len(self.quantities)}")

    def lines(self, rows: Iterable[Row]) -> tuple[list[str], list[list[str]]]:
        """The headings and the lines of the table, as text.

        Arguments:
            rows: The rows of the results; those without a value of `by` or `across` do not count.
        """
        keys = self.by if self.across is None else (*self.by, self.across)
        counted = [
            row
            for row in ({name: _fixed(value) for name, value in row.items()} for row in rows)
            if all(row.get(key) == _fixed(value) for key, value in self.where.items())
            and all(key in row for key in keys)
        ]
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in counted:
            groups.setdefault(tuple(row[key] for key in self.by), []).append(row)
        columns: list[tuple[str, Quantity, Row]] = [(q.label, q, {}) for q in self.quantities]
        if self.across is not None:
            values = dict.fromkeys(row[self.across] for row in counted)
            columns = [(str(value), self.quantities[0], {self.across: value}) for value in values]
        heads = [*(key.replace("_", " ") for key in self.by), *(label for label, _, _ in columns)]
        return heads, [
            [
                *map(str, group),
                *(
                    q.cell([row.get(q.name) for row in members if all(row[key] == own[key] for key in own)])
                    for _, q, own in columns
                ),
            ]
            for group, members in groups.items()
        ]

    def markdown(self, rows: Iterable[Row]) -> str:
        """The table in Markdown, under its title."""
        heads, lines = self.lines(rows)
        table = [_line(heads), "|---" * len(heads) + "|", *map(_line, lines)]
        return "\n".join([f"**{self.title}**", "", *table, *(["", self.note] if self.note else [])])


@dataclass(frozen=True)
class Picture:
    """A figure beside the results: the name of its file, and what it shows."""

    file: str
    caption: str


@dataclass(frozen=True)
class Results:
    """All of a benchmark.

    Attributes:
        title: What it is.
        text: What was done and how to read the numbers, in paragraphs.
        command: The command that makes them again.
        settings: The settings, nested plain data.
        seeds: The seeds of the repeats.
        rows: The numbers.
        tables: How they are summed up.
        pictures: The figures beside them.
        hardware: The machine, as `physflow.machine.machine` tells it.
        versions: The versions of physflow and the packages on which numbers depend.
        commit: The commit of physflow, with a plus if files had changed since; empty if unknown.
    """

    title: str
    text: str
    command: str
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]
    hardware: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str = ""

    def markdown(self) -> str:
        """The tables in Markdown."""
        return "\n\n".join(table.markdown(self.rows) for table in self.tables) + "\n"

    def write(self, folder: str | Path) -> Path:
        """Write ``results.json`` and ``table.md`` into a folder.

        Numbers that are not finite become null: JSON has no others.

        Arguments:
            folder: The folder; it is made if need be, and files of these names in it are replaced.

        Returns:
            The path of ``results.json``.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, **_plain(dataclasses.asdict(self))}
        for name, text in ((TABLES, self.markdown()), (FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")):
            part = folder / f"{name}.part"
            part.write_text(text, encoding="utf-8")
            part.replace(folder / name)
        return folder / FILE

    @classmethod
    def read(cls, path: str | Path) -> Results:
        """The results in a file, or in the ``results.json`` of a folder.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file holds something else.
        """
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"expected the results of a benchmark in {path}, found no file; run it with --out")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged: {error}; run its benchmark again") from error
        found = content.pop("format", None) if isinstance(content, dict) else None
        if found != FORMAT:
            raise ValueError(
                f"expected results of the format {FORMAT}, found {found or 'none'} in {path}; run its benchmark again"
            )
        names = {f.name for f in dataclasses.fields(cls)}
        if names != set(content):
            wrong = ", ".join(sorted(names ^ set(content)))
            raise ValueError(f"{path} has missing or unknown entries ({wrong}); run its benchmark again")
        try:
            tables = [
                Table(**{**t, "by": tuple(t["by"]), "quantities": tuple(Quantity(**q) for q in t["quantities"])})
                for t in content.pop("tables")
            ]
            pictures = [Picture(**p) for p in content.pop("pictures")]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} describes a table or a picture wrongly: {error}; run its benchmark again"
            ) from error
        content |= {"seeds": tuple(content["seeds"]), "rows": tuple(content["rows"])}
        return cls(**content, tables=tuple(tables), pictures=tuple(pictures))


def find_results(folder: str | Path) -> list[Path]:
    """The paths of all results in a folder and the folders in it, sorted; files of other formats are left out."""
    return [
        path for path in sorted(Path(folder).rglob(FILE)) if path.is_file() and f'"{FORMAT}"'.encode() in _start(path)
    ]


def number(value: float | None) -> str:
    """A number for people: three digits, powers of ten as such, a dash for what is missing."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        text = f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")
    else:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{mantissa}{_power(int(exponent))}"
    return text.replace("-", "\N{MINUS SIGN}")


def _uncertain(mean: float, std: float) -> str:
    """Mean and standard deviation, this with two digits and both with as many decimals, at most six."""
    if std == 0:
        return number(mean)
    largest = max(abs(mean), std)
    exponent = 0 if 1e-3 <= largest < 1e5 else math.floor(math.log10(largest))
    mean, std = mean / 10**exponent, std / 10**exponent
    decimals = min(6, max(0, 1 - math.floor(math.log10(std))))
    # A deviation too small for six decimals must not be shown as none.
    spread = f"{std:.{decimals}f}" if std >= 1e-6 else number(std)
    text = f"{mean:.{decimals}f} ± {spread}".replace("-", "\N{MINUS SIGN}")
    return f"({text}){_power(exponent)}" if exponent else text


def _power(exponent: int) -> str:
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"\N{MULTIPLICATION SIGN}10{raised}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def _fixed(value: Any) -> Any:
    """A value of a row that tells rows apart: a sequence as a tuple, as it was before it was written."""
    return tuple(map(_fixed, value)) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    """Nested plain data that JSON can hold."""
    if hasattr(value, "tolist"):  # of numpy or torch
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return str(value)
