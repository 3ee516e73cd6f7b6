"""The command `physflow condition`: fields given the readings of sensors."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from physflow.cli.outputs import ending, free
from physflow.cli.parser import Parser
from physflow.config import builtin_models, from_dict
from physflow.config.checks import at_least, fraction, literals

__all__ = ["ConditionOptions", "add_options", "execute"]


@dataclass(frozen=True)
class ConditionOptions:
    """How fields are drawn given observations.

    Attributes:
        samples: Number of samples to draw (default 200).
        seed: The seed of the samples, and of the choice of sensors that are held out (default 0).
        mode: solver puts the input fields through the equation's solver and its adjoint; joint guides the flow of all
            fields, which takes no solves and is an approximation (default solver).
        method: How the mode joint guides the flow: moment matching posterior sampling (mmps), diffusion posterior
            sampling (dps) or pseudoinverse guidance (pseudoinverse) (default mmps).
        steps: Steps of the flow from noise to data; 50 in the mode joint and the model's own otherwise (default null).
        start: Where the chains of the mode solver begin: around one mode (laplace), or at the end of an annealing from
            the prior, which takes more solves and may find other modes (prior) (default laplace).
        burn_in: Moves of each of the 64 chains of the mode solver before its first draw (default 8).
        moves: Moves of each of these chains after them: four times as many, half the error of the draws (default 20).
        offset_std: In the mode solver, the standard deviation of an unknown constant in all readings of solutions, such
            as the datum of a pressure, in their unit; 0 is none (default 0.0).
        held_out: The share of the places whose sensors are not used, but test the samples (default 0.0).
    """

    samples: int = 200
    seed: int = 0
    mode: Literal["solver", "joint"] = "solver"
    method: Literal["mmps", "dps", "pseudoinverse"] = "mmps"
    steps: int | None = None
    start: Literal["laplace", "prior"] = "laplace"
    burn_in: int = 8
    moves: int = 20
    offset_std: float = 0.0
    held_out: float = 0.0

    def __post_init__(self) -> None:
        literals(self)
        at_least(2, samples=self.samples)
        at_least(0, seed=self.seed, burn_in=self.burn_in)
        at_least(4, moves=self.moves)
        if self.steps is not None:
            at_least(1, steps=self.steps)
        if not 0 <= self.offset_std < math.inf:
            raise ValueError(f"offset_std must be finite and not negative, got {self.offset_std!r}")
        fraction(held_out=self.held_out)


def add_options(parser: Parser) -> None:
    """Add the options of the command."""
    names = ", ".join(builtin_models())
    parser.add_argument("model", type=str, help=f"the folder of a model, or one that ships with physflow: {names}")
    table = "a table with the columns x, y, field, value and std; log permeability, or log K, is the natural logarithm"
    parser.add_argument("--observations", type=str, required=True, metavar="FILE.csv", help=table)
    parser.add_argument("--out", type=str, required=True, help="the file to write, ending in .nc")
    report = "the page to write, ending in .html; beside the samples, with their name, by default"
    parser.add_argument("--report", type=str | None, metavar="FILE.html", help=report)
    parser.add_argument("--overwrite", action="store_true", help="replace the file and the page if they exist")
    # What is not given must be told from what is: some of it belongs to one mode only.
    parser.add_settings(ConditionOptions, defaults=False)


def execute(options: dict[str, Any]) -> int:
    """Draw fields given the readings of sensors, with a page that tests the draws."""
    given = {f.name: options[f.name] for f in fields(ConditionOptions) if f.name in options}
    config = from_dict(ConditionOptions, given)
    of_one_mode = {"method": "joint"} | dict.fromkeys(("start", "burn_in", "moves", "offset_std"), "solver")
    for name, mode in of_one_mode.items():
        if name in given and config.mode != mode:
            raise ValueError(f"--{name} says nothing with --mode {config.mode}; it is for --mode {mode}")
    out = free(ending(options["out"], ".nc", "--out"), options["overwrite"])
    page = ending(options["report"] or out.with_suffix(".html"), ".html", "--report")
    report = free(page, options["overwrite"], "--report")
    if not Path(options["observations"]).is_file():
        raise FileNotFoundError(f"no file {options['observations']}")

    import physflow
    from physflow.conditioning import condition
    from physflow.data import files
    from physflow.inference import assemble
    from physflow.report.conditioning import notices_of, write_conditioning
    from physflow.report.predictions import predictions_of
    from physflow.sensors import held_out, observations_of, read_sensors, with_sensors

    model = physflow.load(options["model"])
    sensors = read_sensors(options["observations"], model.grid.axes, model.fields)
    # Those held out are to fit the grid and each other too, before the work and not after it.
    positive = None if model.equation is None else model.equation.positive
    try:
        cells = model.grid.centering == "cells"
        assemble(observations_of(sensors), model.fields, model.grid.coordinates(), cells=cells, positive=positive)
    except ValueError as error:
        raise ValueError(f"{options['observations']}: {error}") from error
    used, held = held_out(sensors, config.held_out, config.seed)
    settings = {name: given[name] for name in ("mode", "steps", *of_one_mode) if name in given}
    beside = observations_of(held) if held else None
    ds = condition(model, observations_of(used), config.samples, config.seed, **settings, beside=beside, progress=True)
    ds = with_sensors(ds, sensors, held).assign_attrs(held_out_share=config.held_out)
    files.write(ds, out, overwrite=options["overwrite"])
    write_conditioning(report, ds)
    # What lies beside the prior was said before the work.
    said = str(ds.attrs.get("beside_the_prior", "")).splitlines()
    for notice in notices_of(ds):
        if notice not in said:
            print(f"physflow: warning: {notice}", file=sys.stderr)
    inside = predictions_of(ds).inside[ds["held_out"].values]
    test = f"; {inside.sum()} of {len(inside)} held-out readings in their 90 % interval" if len(held) else ""
    print(f"{out}: {config.samples} samples given {len(used)} sensors{test}; page: {report}")
    return 0
