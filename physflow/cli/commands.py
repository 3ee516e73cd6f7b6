"""The commands of `physflow`: each reads its options, calls one function of the package and prints a summary.

A command is a pair of functions: one adds its options to a parser, the other takes their values and returns
the exit code. The docstring of the second is the command's help.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physflow.cli import audit, condition
from physflow.cli.outputs import ending, free
from physflow.cli.parser import Parser
from physflow.config import (
    SETS,
    ExperimentConfig,
    ModelConfig,
    SamplingConfig,
    TrainingConfig,
    builtin_experiments,
    builtin_models,
    from_dict,
    to_dict,
)
from physflow.config.checks import one_of

if typing.TYPE_CHECKING:
    import xarray as xr

__all__ = ["COMMANDS", "Command"]

Options = dict[str, Any]


@dataclass(frozen=True)
class Command:
    """A command of `physflow`.

    Attributes:
        arguments: What the usage line shows after the command's name.
        add_options: Adds the options to a parser.
        execute: Carries it out and returns the exit code.
        resumes: Whether the same command, with these options, goes on after an interruption.
    """

    arguments: str
    add_options: Callable[[Parser], None]
    execute: Callable[[Options], int]
    resumes: Callable[[Options], bool] = lambda options: False


def _generate_options(parser: Parser) -> None:
    out = "the file to write, ending in .nc; any other name is a folder of shards, which the same command resumes"
    parser.add_argument("--out", type=str | None, help=out)
    names = "{" + ",".join(SETS) + "}"
    equation = "what the fields solve; with --help its settings are listed below, with [their defaults]"
    parser.add_argument("--equation", type=str, default="darcy", metavar=names, help=equation)
    parser.add_argument("--workers", type=int, default=0, help="worker processes; 0 uses threads in this one")
    parser.add_argument("--dask", type=str | None, metavar="ADDRESS", help="use the workers of this dask scheduler")
    parser.add_argument("--shard", type=int | None, help="samples in a shard of a folder; about 32 MiB by default")
    parser.types["shard"] = "int or null"
    parser.add_argument("--device", type=str, default="cpu", help="where the solver runs, such as cpu or cuda")
    parser.add_argument("--overwrite", action="store_true", help="replace the file, or the set in the folder")
    parser.add_argument("--print_config", action="store_true", help="print all settings as YAML and exit")
    # What is not given is the default of the equation, which can be named in a file as well: all are options.
    asked = _equation_asked(parser.words)
    for name in sorted(SETS, key=lambda name: name != asked):
        parser.add_settings(SETS[name], defaults=False, told=True, hidden=name != asked)


def _equation_asked(words: Sequence[str]) -> str:
    """The equation on a command line, or the first."""
    pairs = [word.removeprefix("--equation=") for word in words if word.startswith("--equation=")]
    pairs += [value for word, value in itertools.pairwise(words) if word == "--equation"]
    return next((name for name in pairs if name in SETS), next(iter(SETS)))


def _generate(options: Options) -> int:
    """Generate fields that solve an equation: pairs of permeability and pressure (Darcy), or others."""
    one_of("equation", options["equation"], SETS)
    own = ("out", "equation", "workers", "dask", "shard", "device", "overwrite")
    given = {k: v for k, v in options.items() if k not in (*own, "print_config", "config", "debug")}
    config = from_dict(SETS[options["equation"]], given)
    if options["print_config"]:
        import yaml

        print(yaml.safe_dump({**{name: options[name] for name in own}, **to_dict(config)}, sort_keys=False), end="")
        return 0
    if options["out"] is None:
        raise ValueError("missing --out; usage: physflow generate --out DATA.nc [options]")
    workers, address = options["workers"], options["dask"]
    if workers < 0:
        raise ValueError(f"workers must be a whole number of at least 0, got {workers}")
    if workers and address is not None:
        raise ValueError("--workers and --dask exclude each other: the workers of a dask cluster are its own")
    out = Path(options["out"]) if _into_folder(options) else free(options["out"], options["overwrite"])

    from physflow.cli import executors
    from physflow.data.generators import generate

    with contextlib.ExitStack() as stack:
        executor = None
        if address is not None:
            executor = stack.enter_context(executors.cluster(address))
        elif workers:
            executor = stack.enter_context(executors.processes(workers))
        ds = generate(
            config,
            device=options["device"],
            executor=executor,
            out=out,
            shard=options["shard"],
            progress=True,
            overwrite=options["overwrite"],
        )
    with ds:
        print(f"{out}: {_summary(ds)}")
    return 0


def _into_folder(options: Options) -> bool:
    """Whether `physflow generate` writes shards, with which it can go on after an interruption."""
    return not str(options["out"]).endswith(".nc")


def _merge_options(parser: Parser) -> None:
    parser.add_argument("data", type=str, help="a folder of shards, as `physflow generate --out FOLDER` writes it")
    parser.add_argument("--out", type=str, required=True, help="the file to write, ending in .nc or .zarr")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


def _merge_shards(options: Options) -> int:
    """Write a folder of shards as one file."""
    out = free(options["out"], options["overwrite"])

    from physflow import data

    data.merge(options["data"], out, overwrite=options["overwrite"], progress=True)
    print(f"{out}: {options['data']} in one piece")
    return 0


def _train_options(parser: Parser) -> None:
    parser.add_argument("data", type=str, help="a file of fields, or a folder of shards; an equation is not needed")
    parser.add_argument("--out", type=str, required=True, help="the folder of the model")
    parser.add_argument("--fields", type=list[str] | str | None, help="the fields to learn, as in a,b; null: all")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda")
    parser.add_argument("--overwrite", action="store_true", help="replace the model if there is one")
    parser.add_settings(ModelConfig, "model.")
    parser.add_settings(TrainingConfig, "training.")


def _train(options: Options) -> int:
    """Train a flow-matching model on the fields of a file."""
    model = from_dict(ModelConfig, options["model"], "model")
    training = from_dict(TrainingConfig, options["training"], "training")
    data, out, fields = options["data"], options["out"], options["fields"]
    if isinstance(fields, str):
        fields = [name.strip() for name in fields.split(",")]

    from physflow import experiment

    settings = {"model": model, "training": training, "fields": fields, "device": options["device"]}
    experiment.train_model(data, out, **settings, overwrite=options["overwrite"], progress=True)
    print(f"{out}: trained; draw from it with: physflow sample {out} --out samples.nc")
    return 0


def _sample_options(parser: Parser) -> None:
    names = ", ".join(builtin_models())
    parser.add_argument("model", type=str, help=f"the folder of a model, or one that ships with physflow: {names}")
    parser.add_argument("--out", type=str, required=True, help="the file to write, ending in .nc")
    parser.add_argument("--device", type=str, default="auto", help="where the network runs: auto, cpu or cuda")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.add_argument(
        "--correction",
        type=str | None,
        metavar="{complete,none}",
        help="complete: recompute the solution fields from the input fields with the equation's solver",
    )
    select = "draw more and keep this share of them, those of the least score; prints what that does to the fields"
    parser.add_argument("--select", type=float | None, metavar="SHARE", help=select)
    parser.add_argument("--by", type=str, default="solution_error", metavar="SCORE", help="the score to select by")
    # What is not given is the model's own.
    parser.add_settings(SamplingConfig, defaults=False)


def _sample(options: Options) -> int:
    """Draw new fields from a trained model, with a physics score on each."""
    given = {f.name: options[f.name] for f in dataclasses.fields(SamplingConfig) if f.name in options}
    config = from_dict(SamplingConfig, given)
    out = free(options["out"], options["overwrite"])

    import physflow
    from physflow.data import files
    from physflow.pde import check_device

    model = physflow.load(options["model"]).to(check_device(options["device"]))
    settings = {"solver": given.get("solver"), "steps": given.get("steps"), "correction": options["correction"]}
    selection = {"select": options["select"], "by": options["by"]}
    ds = model.sample(config.samples, seed=config.seed, **settings, **selection, progress=True)
    files.write(ds, out, overwrite=options["overwrite"])
    print(f"{out}: {_summary(ds)}")
    return 0


def _score_options(parser: Parser) -> None:
    parser.add_argument("data", type=str, help="a file of fields, or a folder of shards, that names its equation")
    parser.add_argument("--anchors", action="store_true", help="score reference fields beside the file's own")
    parser.add_argument("--out", type=str | None, help="write all scores (.nc) or the table (.json)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


def _score(options: Options) -> int:
    """Score every sample of a file with the discretisation of the equation it names."""
    out = None if options["out"] is None else free(options["out"], options["overwrite"])
    if out is not None and out.suffix not in (".nc", ".json"):
        raise ValueError(f"expected --out to end in .nc or .json, got {out.name!r}")

    from physflow import experiment, pde
    from physflow.data import files
    from physflow.fields import SAMPLE

    with files.open(options["data"]) as ds:
        if ds.sizes.get(SAMPLE) == 0:
            raise ValueError(f"{options['data']} holds no samples to score")
        scores = pde.score(ds, anchors=options["anchors"], progress=True)
    anchors = scores["anchor"].values if options["anchors"] else ["as given"]
    table = {
        str(anchor): experiment.summarize(scores.sel(anchor=anchor) if options["anchors"] else scores)
        for anchor in anchors
    }
    if out is not None and out.suffix == ".nc":
        files.write(scores, out, overwrite=options["overwrite"])
    elif out is not None:
        with files.atomic(out, options["overwrite"]) as part:
            part.write_text(json.dumps(table, indent=1))
    print(f"{'score':<24}{'anchor':<24}{'median':>12}{'quartiles':>26}")
    for name in table[str(anchors[0])]:
        for anchor, summary in table.items():
            low, median, high = (summary[name][key] for key in ("q25", "median", "q75"))
            print(f"{name:<24}{anchor:<24}{median:>12.4g}{f'{low:.4g} .. {high:.4g}':>26}")
    return 0


def _report_options(parser: Parser) -> None:
    folder = "the folder of an experiment, as `physflow run` leaves it, or of results of benchmarks, perhaps in folders"
    one = "or the results.json of one; or a file of `physflow condition`, ending in .nc"
    parser.add_argument("folder", type=str, help=f"{folder} of their own; {one}")
    out = "where the page of benchmarks or of `physflow condition` goes, ending in .html, replaced if it exists; "
    default = "FOLDER/report.html, or the file's name, by default"
    parser.add_argument("--out", type=str | None, metavar="FILE.html", help=out + default)


def _report(options: Options) -> int:
    """Write the report of an experiment or of conditioned fields again, or the page of results of benchmarks."""
    folder = Path(options["folder"])
    if folder.is_file() and folder.suffix == ".nc":
        from physflow.data import files
        from physflow.report import write_conditioning

        page = ending(options["out"] or folder.with_suffix(".html"), ".html", "--out")
        with files.open(folder) as ds:
            if "observed" not in ds:
                raise ValueError(f"{folder} has no readings of sensors, as a file of `physflow condition` has")
            print(f"report: {write_conditioning(page, ds)}")
        return 0
    if (folder / "experiment.yaml").exists():
        if options["out"] is not None:
            raise ValueError(
                f"--out is for results of benchmarks; the report of an experiment is written into {folder}"
            )
        from physflow import experiment

        print(f"report: {experiment.write_report(folder)}")
        return 0

    from physflow.results import FILE, FORMAT, find_results

    single = folder.is_file() and folder.suffix == ".json"
    found = [folder] if single else find_results(folder)
    if not found:
        raise FileNotFoundError(
            f"{folder} has no experiment.yaml, as the folder of an experiment has, and no results.json of a benchmark "
            f"({FORMAT}) in it or in a folder below; give the folder of `physflow run`, or that of a benchmark"
        )
    for other in [] if single else sorted(set(folder.rglob(FILE)) - set(found)):
        print(f"left out: {other} has another format; run its benchmark again", file=sys.stderr)
    out = ending(options["out"] or (folder.parent if single else folder) / "report.html", ".html", "--out")

    from physflow import report

    print(f"report: {report.write_benchmarks(out, found)}")
    return 0


def _validate_options(parser: Parser) -> None:
    parser.add_argument("data", type=str, help="a file of fields, or a folder of shards")


def _validate(options: Options) -> int:
    """Check a file of fields, or a folder of shards: format, grid, values, and that they solve the equation named."""
    from physflow import data

    findings = data.validate(options["data"])
    for finding in findings:
        print(f"{finding.level}: {finding.message}")
    errors = sum(finding.level == "error" for finding in findings)
    print(f"{options['data']}: {'not valid' if errors else 'valid'}")
    return 1 if errors else 0


def _run_options(parser: Parser) -> None:
    names = ", ".join(builtin_experiments())
    parser.add_argument("experiment", type=str, help=f"a YAML file, or a built-in experiment: {names}")
    parser.add_argument("--out", type=str | None, help="the folder of the experiment")
    parser.add_argument("--overwrite", action="store_true", help="start again, deleting the experiment in the folder")
    parser.add_argument("--alone", action="store_true", help="leave out the baselines of the experiment")
    parser.add_argument("--print_config", action="store_true", help="print the whole experiment as YAML and exit")
    parser.add_settings(ExperimentConfig, defaults=False)


def _run(options: Options) -> int:
    """Carry out a whole experiment: generate, train, sample, score, report."""
    from physflow import experiment

    changes = {f.name: options[f.name] for f in dataclasses.fields(ExperimentConfig) if f.name in options}
    config = experiment.load_experiment(options["experiment"], changes, alone=options["alone"])
    if options["print_config"]:
        import yaml

        print(yaml.safe_dump(to_dict(config), sort_keys=False), end="")
        return 0
    if options["out"] is None:
        raise ValueError("missing --out, the folder of the experiment")
    report = experiment.run(config, options["out"], overwrite=options["overwrite"], progress=True)
    print(f"report: {report}")
    return 0


def _flat(cls: type, options: Options) -> Any:
    return from_dict(cls, {f.name: options[f.name] for f in dataclasses.fields(cls)})


def _summary(ds: xr.Dataset) -> str:
    from physflow.fields import SAMPLE, field_names, grid_of

    names = field_names(ds)
    points = " x ".join(str(n) for n in grid_of(ds, names).shape)
    return f"{ds.sizes[SAMPLE]} samples of {', '.join(names)} on {points} points"


COMMANDS: dict[str, Command] = {
    "generate": Command("--out DATA.nc", _generate_options, _generate, resumes=_into_folder),
    "merge": Command("FOLDER --out DATA.nc", _merge_options, _merge_shards),
    "train": Command("DATA.nc --out MODEL", _train_options, _train, resumes=lambda options: True),
    "sample": Command("MODEL --out SAMPLES.nc", _sample_options, _sample),
    "condition": Command("MODEL --observations FILE.csv --out SAMPLES.nc", condition.add_options, condition.execute),
    "score": Command("DATA.nc", _score_options, _score),
    "report": Command("FOLDER", _report_options, _report),
    "validate": Command("DATA.nc", _validate_options, _validate),
    "audit": Command("DATA", audit.add_options, audit.execute),
    "run": Command("EXPERIMENT --out FOLDER", _run_options, _run, resumes=lambda options: True),
}
"""The commands of `physflow`, in the order in which they are used."""
