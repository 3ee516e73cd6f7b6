"""What the benchmarks share: their options, rows that survive an interruption, and the files they leave.

A benchmark makes its rows one piece at a time. A piece that is done is kept in ``work/`` in the folder of the results,
beside the checkpoints of the trainings, with the commit, the machine and the versions that made it; the same command
run again goes on where it was interrupted. Results hold all pieces in the folder, also those of runs of other parts.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        # Asked now: files may change while the benchmark runs.
        self._made = {
            "commit": commit() or "unknown",
            "hardware": {**machine(), "threads": torch.get_num_threads()},
            "versions": versions(),
        }
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
            rows = [{**key, **row} for row in ([found] if isinstance(found, Mapping) else found)]
            _write(path, {"rows": rows, "made": self._made})
            print(name, "done", flush=True)
        self._added.add(path)
        kept: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
        self.rows += kept
        return kept

    @contextlib.contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Count the time of what is done inside as that of `name`, which may be interrupted and gone on with.

        Arguments:
            name: The name under which `seconds` knows it.
        """
        path = self.work / "times" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        before = self.seconds(name) if path.exists() else 0.0
        _write(path, {"seconds": before, "running": True})
        start = time.perf_counter()
        try:
            yield
        finally:
            total = None if before is None else before + time.perf_counter() - start
            _write(path, {"seconds": total, "running": False})

    def seconds(self, name: str) -> float | None:
        """The time that `clock` counted; None if it was killed in between, and for what was never timed."""
        path = self.work / "times" / f"{name}.json"
        known = json.loads(path.read_text()) if path.exists() else {"running": True}
        return None if known["running"] else known["seconds"]

    def picture(self, file: str, figure: Figure, caption: str) -> None:
        """Keep a figure beside the results, as a PNG file."""
        figure.savefig(self.out / file, dpi=110, metadata={"Software": None})
        self.drawn(file, caption)

    def drawn(self, file: str, caption: str) -> None:
        """Note a picture that lies beside the results."""
        _write(self.work / "pictures.json", {**self._captions(), file: caption})

    def _captions(self) -> dict[str, str]:
        path = self.work / "pictures.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def finish(self, title: str, text: str, seeds: int, tables: Sequence[Table]) -> Results:
        """Write ``results.json`` and ``table.md`` of all pieces in the folder, and print the tables.

        Arguments:
            title: What the benchmark is.
            text: How to read its numbers.
            seeds: How many seeds it had.
            tables: How the rows are summed up; those without a row are left out.
        """
        others = sorted(set((self.work / "rows").glob("*.json")) - self._added, key=lambda path: path.stat().st_mtime)
        rows = [*self.rows, *(row for path in others for row in json.loads(path.read_text())["rows"])]
        made = [json.loads(path.read_text())["made"] for path in (*self._added, *others)]
        warning = "A quick run: everything is far too short, and the numbers mean nothing.\n\n"
        results = Results(
            title=title,
            text=(warning if self.settings.get("quick") else "") + text.strip(),
            command=shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_words(sys.argv[1:])]),
            settings=self.settings,
            seeds=tuple(range(seeds)),
            rows=tuple(rows),
            tables=tuple(table for table in tables if table.lines(rows)[1]),
            pictures=tuple(Picture(file, caption) for file, caption in self._captions().items()),
            hardware=_merged([one["hardware"] for one in made]),
            versions=_merged([one["versions"] for one in made]),
            commit=_merged([{"commit": one["commit"]} for one in made]).get("commit", ""),
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


def _merged(each: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What several pieces say of themselves, with all values where they differ."""
    values: dict[str, list[str]] = {}
    for one in each:
        for name, value in one.items():
            values.setdefault(name, []).append(str(value))
    return {name: ", ".join(sorted(set(found))) for name, found in values.items()}


def _json(content: Any, **form: Any) -> str:
    """Nested data as JSON, numbers and arrays of numpy and torch too."""
    return json.dumps(content, default=lambda value: value.tolist(), **form)


def _write(path: Path, content: Any) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(_json(content, indent=1))
    os.replace(part, path)
