"""The command `physflow audit`: what is wrong with pairs of fields, whoever made them."""

from __future__ import annotations

import contextlib
from typing import Any

from physflow.cli.outputs import free
from physflow.cli.parser import Parser

__all__ = ["add_options", "execute"]


def add_options(parser: Parser) -> None:
    """Add the options of `physflow audit`."""
    parser.add_argument("data", type=str, help="a file or folder of pairs: ours, or of any layout that is known")
    names = "the variables of a netCDF or Zarr that hold the fields, as in permeability=K,pressure=p"
    parser.add_argument("--fields", type=str | None, metavar="NAME=VARIABLE,...", help=names)
    parser.add_argument("--sample", type=str | None, metavar="DIM", help="the dimension that counts the fields in it")
    parser.add_argument("--samples", type=int, default=16, help="how many pairs to look at, evenly spread")
    std = "standard deviations in use elsewhere, to compare with those of the data, as in permeability=7.815"
    parser.add_argument("--std", type=str | None, metavar="FIELD=NUMBER,...", help=std)
    parser.add_argument(
        "--repair", type=str | None, metavar="OUT.nc", help="write the pairs, as far as they can be mended"
    )
    parser.add_argument("--solve", action="store_true", help="repair by solving for the solutions anew")
    parser.add_argument("--overwrite", action="store_true", help="replace the repaired file if it exists")


def execute(options: dict[str, Any]) -> int:
    """Tell what is wrong with pairs of fields: ways round, spacing, walls, signs, constants, noise, order."""
    out = None if options["repair"] is None else free(options["repair"], options["overwrite"])
    if options["solve"] and out is None:
        raise ValueError("--solve is for --repair OUT.nc")
    fields = _assignments("--fields", options["fields"])
    std = {name: _number(name, value) for name, value in (_assignments("--std", options["std"]) or {}).items()}

    from physflow import data
    from physflow.data import files

    with contextlib.closing(data.open(options["data"], fields, options["sample"])) as ds:
        found = data.audit(ds, options["samples"], std, progress=True)
        print(found)
        if out is not None and found.clean:
            print(f"{out}: not written, for there is nothing to repair")
        elif out is not None:
            mended = data.repair(ds, found, solve=options["solve"])
            files.write(mended, out, overwrite=options["overwrite"])
            undone = mended.attrs["repaired"].split(", ")
            left = [fault.kind for fault in found.faults if fault.kind not in undone]
            words = f"undone: {', '.join(filter(None, undone)) or 'nothing'}" + f"; left: {', '.join(left)}" * bool(
                left
            )
            print(f"{out}: {words}")
    return 0 if found.clean else 1


def _assignments(option: str, text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and value.strip() for name, _, value in pairs):
        raise ValueError(f"expected {option} to be NAME=VALUE, or several of these with commas between, got {text!r}")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"expected a number for the standard deviation of {name}, got {text!r}") from error
