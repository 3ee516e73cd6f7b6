"""The results of benchmarks as one HTML page that needs nothing else.

Each benchmark is a section: what was done, its tables as `physflow.results.Table.lines` gives them, its pictures, and
what the numbers were made with and on. The words of the page are in the template ``benchmarks.html`` beside this
module; it has the look of the report of an experiment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from physflow.report.html import Image, as_yaml, html_file, pairs, write_page
from physflow.results import Picture, Results, Table

__all__ = ["write_benchmarks"]

_PNG = b"\x89PNG\r\n\x1a\n"


def write_benchmarks(path: str | Path, results: Iterable[str | Path]) -> Path:
    """Write a page of the results of benchmarks.

    Arguments:
        path: The HTML file; an existing one is replaced, in one step.
        results: The ``results.json`` of each benchmark, or its folder, in the order of the page.

    Returns:
        The path.

    Raises:
        ValueError: If there are no results, or a file of them holds something else.
        FileNotFoundError: If a file of results is missing. A missing picture is said in the page.
        IsADirectoryError: If the path is a folder.
    """
    path = html_file(path)
    folders = [Path(file).resolve() for file in results]
    found = [Results.read(file) for file in folders]
    if not found:
        raise ValueError("expected the results of at least one benchmark, got none")
    folders = [file if file.is_dir() else file.parent for file in folders]
    return write_page(
        path,
        "benchmarks.html",
        benchmarks=[
            {"name": name, "id": f"b{k}", **_benchmark(folder, one)}
            for k, (name, folder, one) in enumerate(zip(_names(folders), folders, found, strict=True), 1)
        ],
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders as seen from the one that holds them all: where that lies is a matter of this machine."""
    common = Path(os.path.commonpath(folder.parent for folder in folders))
    return [folder.relative_to(common).as_posix() for folder in folders]


def _benchmark(folder: Path, results: Results) -> dict[str, Any]:
    run = {
        "seeds": ", ".join(map(str, results.seeds)),
        "commit": results.commit or "unknown: no checkout",
        "rows": len(results.rows),
    }
    return {
        "title": results.title,
        "blocks": _blocks(results.text),
        "seeds": len(results.seeds),
        "tables": [_table(table, results) for table in results.tables],
        "pictures": [_picture(folder, picture) for picture in results.pictures],
        "command": results.command,
        "provenance": {"Run": pairs(run), "Hardware": pairs(results.hardware), "Versions": pairs(results.versions)},
        "settings": as_yaml(results.settings),
    }


def _blocks(text: str) -> list[tuple[str, list[str]]]:
    """The paragraphs of a text, and the items of its lists: those blocks whose lines begin with an asterisk."""
    blocks: list[tuple[str, list[str]]] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        before, *items = re.split(r"(?:^|\n)\* ", block)
        blocks += [(kind, found) for kind, found in (("p", [before] if before else []), ("ul", items)) if found]
    return blocks


def _table(table: Table, results: Results) -> dict[str, Any]:
    heads, lines = table.lines(results.rows)
    across = None
    if table.across is not None:
        across = f"{table.quantities[0].label}, by {table.across.replace('_', ' ')}"
    return {
        "title": table.title,
        "note": table.note,
        "heads": heads,
        "lines": lines,
        "by": len(table.by),
        "across": across,
    }


def _picture(folder: Path, picture: Picture) -> dict[str, Any]:
    """A picture and its caption, or what is wrong with its file."""
    file, image, wrong = folder / picture.file, None, ""
    data = file.read_bytes() if file.is_file() else None
    if data is None:
        wrong = f"The picture {picture.file} is missing beside the results; run the benchmark again."
    elif not data.startswith(_PNG):
        wrong = f"The picture {picture.file} is not a PNG file; run the benchmark again."
    else:
        # The header of a PNG file begins with its width.
        image = Image.of(data, picture.caption, width=int.from_bytes(data[16:20], "big"))
    return {"image": image, "caption": picture.caption, "wrong": wrong}
