"""What the benchmarks share: their options, rows that survive an interruption, and the files they leave.

A benchmark makes its rows one piece at a time. A piece that is done is kept in ``work/`` in the folder of the results,
beside the checkpoints of the trainings; the same command run again goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from physflow.machine import commit, machine, versions
from physflow.results import Picture, Results, Table

__all__ = ["Benchmark", "options_of"]

Rows = Sequence[Mapping[str, Any]]


def options_of(text: str | None, seeds: int, **more: Mapping[str, Any]) -> argparse.Namespace:
    """The options on the command line, `out`, `quick` and `seeds` among them.

    Arguments:
        text: The description of the script.
        seeds: How many seeds it has by default, from 0; the quick run has one.
        more: Further options, name to the arguments of `argparse.ArgumentParser.add_argument`.
    """
    # A shortened --out would take its folder into the command that is kept.
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results; a rerun goes on there")
    parser.add_argument("--quick", action="store_true", help="everything once and far too short, to see that it runs")
    parser.add_argument("--seeds", type=int, help=f"number of repeats, each from its own seed (default {seeds})")
    for name, arguments in more.items():
        parser.add_argument(f"--{name}", **arguments)
    options = parser.parse_args()
    if options.seeds is None:
        options.seeds = 1 if options.quick else seeds
    if options.seeds < 1:
        parser.error(f"expected at least one seed, got --seeds {options.seeds}")
    return options


class Benchmark:
    """The folder of a benchmark.

    Arguments:
        out: The folder.
        settings: All that the numbers depend on, nested plain data.

    Attributes:
        work: The folder of what need not be kept: rows that are done, checkpoints, data.

    Raises:
        ValueError: If the folder holds work done with other settings.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out, self.work = out, out / "work"
        self.settings: dict[str, Any] = json.loads(_json(settings))
        (self.work / "rows").mkdir(parents=True, exist_ok=True)
        # What is here must never be mistaken for results.
        (self.work / ".gitignore").write_text("*\n")
        path = self.work / "settings.json"
        if path.exists() and (before := json.loads(path.read_text())) != self.settings:
            # Lists of none or one: null is a setting too.
            old, new = ({k: [v] for k, v in known.items()} for known in (before, self.settings))
            names = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
            raise ValueError(
                f"{out} holds work with other settings ({', '.join(names)}): give another --out, or delete {self.work}"
            )
        _write(path, self.settings)
        self.rows: list[dict[str, Any]] = []
        self.pictures: list[Picture] = []
        self._added: set[Path] = set()

    def add(self, compute: Callable[[], Rows | Mapping[str, Any]], **key: Any) -> list[dict[str, Any]]:
        """The rows of one piece of work, made now unless they were made before.

        Arguments:
            compute: Makes them: one mapping or several.
            key: What names the piece; every row gets these names and values, its own after them.

        Raises:
            ValueError: If a piece of this name was added before: its rows would count twice.
        """
        digest = hashlib.sha256(_json(key, sort_keys=True).encode()).hexdigest()[:16]
        path = self.work / "rows" / f"{digest}.json"
        name = ", ".join(f"{name} {value}" for name, value in key.items())
        if path in self._added:
            raise ValueError(f"the piece {name or 'without a name'} was added before; name every piece differently")
        if not path.exists():
            found = compute()
            _write(path, [found] if isinstance(found, Mapping) else list(found))
            print(name, "done", flush=True)
        self._added.add(path)
        rows = [{**key, **row} for row in json.loads(path.read_text())]
        self.rows += rows
        return rows

    def picture(self, file: str, figure: Figure, caption: str) -> None:
        """Keep a figure beside the results, as a PNG file."""
        figure.savefig(self.out / file, dpi=110, metadata={"Software": None})
        self.pictures.append(Picture(file, caption))

    def finish(self, title: str, text: str, seeds: int, tables: Sequence[Table]) -> Results:
        """Write ``results.json`` and ``table.md``, and print the tables."""
        results = Results(
            title=title,
            text=text.strip(),
            command=shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_words(sys.argv[1:])]),
            settings=self.settings,
            seeds=tuple(range(seeds)),
            rows=tuple(self.rows),
            # A run of some of the methods leaves some tables empty.
            tables=tuple(table for table in tables if table.lines(self.rows)[1]),
            pictures=tuple(self.pictures),
            hardware={**machine(), "threads": torch.get_num_threads()},
            versions=versions(),
            commit=commit(),
        )
        results.write(self.out)
        print(results.markdown())
        return results


def _words(words: Sequence[str]) -> list[str]:
    """The words of the command line but for the folder, which is a matter of this machine."""
    kept, after_out = [], False
    for word in words:
        if after_out or word == "--out":
            kept.append("DIR" if after_out else word)
            after_out = word == "--out" and not after_out
        else:
            kept.append("--out=DIR" if word.startswith("--out=") else word)
    return kept


def _json(content: Any, **form: Any) -> str:
    """Nested data as JSON, numbers and arrays of numpy and torch too."""
    return json.dumps(content, default=lambda value: value.tolist(), **form)


def _write(path: Path, content: Any) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(_json(content, indent=1))
    os.replace(part, path)
