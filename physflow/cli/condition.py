"""The command `physflow condition`: fields given the readings of sensors."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from physflow.cli.outputs import free
from physflow.cli.parser import Parser
from physflow.config import builtin_models, from_dict
from physflow.config.checks import at_least, fraction, literals

__all__ = ["ConditionOptions", "add_options", "execute"]


@dataclass(frozen=True)
class ConditionOptions:
    """How fields are drawn given observations.

    Attributes:
        samples: Number of samples to draw; in the mode solver these are the particles, and few of them are a coarse
            posterior.
        seed: The seed of the samples, and of the choice of sensors that are held out.
        mode: solver puts the input fields through the equation's solver and its adjoint; joint guides the flow of all
            fields, which takes no solves and is an approximation.
        method: How the mode joint guides the flow.
        steps: Steps of the flow from noise to data; 50 in the mode joint and the model's own otherwise.
        start: Where the mode solver starts: at a Gaussian around one mode, or at the prior, which takes more solves and
            finds all modes.
        held_out: The share of the places whose sensors are not used, but test the samples.
    """

    samples: int = 200
    seed: int = 0
    mode: Literal["solver", "joint"] = "solver"
    method: Literal["mmps", "dps", "pseudoinverse"] = "mmps"
    steps: int | None = None
    start: Literal["laplace", "prior"] = "laplace"
    held_out: float = 0.0

    def __post_init__(self) -> None:
        literals(self)
        at_least(2, samples=self.samples)
        at_least(0, seed=self.seed)
        if self.steps is not None:
            at_least(1, steps=self.steps)
        fraction(held_out=self.held_out)


def add_options(parser: Parser) -> None:
    """Add the options of the command."""
    names = ", ".join(builtin_models())
    parser.add_argument("model", type=str, help=f"the folder of a model, or one that ships with physflow: {names}")
    table = (
        "a table with the columns x, y, field, value and std; a field may be called log K, for its natural logarithm"
    )
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
    for name, mode in (("method", "joint"), ("start", "solver")):
        if name in given and config.mode != mode:
            raise ValueError(f"--{name} says nothing with --mode {config.mode}; it is for --mode {mode}")
    out = free(_ending(options["out"], ".nc", "--out"), options["overwrite"])
    page = _ending(options["report"] or out.with_suffix(".html"), ".html", "--report")
    report = free(page, options["overwrite"], "--report")
    if not Path(options["observations"]).is_file():
        raise FileNotFoundError(f"no file {options['observations']}")

    import physflow
    from physflow.conditioning import condition
    from physflow.data import files
    from physflow.inference import assemble
    from physflow.report.conditioning import write_conditioning
    from physflow.report.predictions import predictions_of
    from physflow.sensors import held_out, observations_of, read_sensors, with_sensors

    model = physflow.load(options["model"])
    sensors = read_sensors(options["observations"], model.grid.axes, model.fields)
    # Those held out are to fit the grid and each other too, before the work and not after it.
    assemble(observations_of(sensors), model.fields, model.grid.coordinates())
    used, held = held_out(sensors, config.held_out, config.seed)
    settings = {name: getattr(config, name) for name in ("mode", "method", "steps", "start")}
    ds = condition(model, observations_of(used), config.samples, config.seed, **settings, progress=True)
    ds = with_sensors(ds, sensors, held)
    files.write(ds, out, overwrite=options["overwrite"])
    write_conditioning(report, ds)
    inside = predictions_of(ds).inside[ds["held_out"].values]
    test = f"; {inside.sum()} of {len(inside)} held-out readings in their 90 % interval" if len(held) else ""
    print(f"{out}: {config.samples} samples given {len(used)} sensors{test}; page: {report}")
    return 0


def _ending(path: str | Path, ending: str, option: str) -> Path:
    path = Path(path)
    if path.suffix != ending:
        raise ValueError(f"expected {option} to end in {ending}, got {path.name!r}")
    return path
