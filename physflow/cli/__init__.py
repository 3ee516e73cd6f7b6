"""The command `physflow`, a thin layer over the package.

Nothing heavy is imported before a command runs, so that `physflow --help` answers at once. Exit codes:
0 success, 1 a file that `physflow validate` finds wrong, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from physflow import __version__
from physflow.cli.commands import COMMANDS, Command
from physflow.cli.parser import Parser
from physflow.config import builtin_presets
from physflow.config.checks import one_of

__all__ = ["COMMANDS", "Command", "Parser", "main", "make_parser"]


def make_parser(words: Sequence[str] = ()) -> Parser:
    """The parser of `physflow` and of all its commands.

    Arguments:
        words: What it is to parse; the help of `physflow generate` is that of the equation that is named there.
    """
    parser = Parser(
        prog="physflow",
        version=__version__,
        usage="physflow COMMAND [options]",
        description="Generate physics fields that can be trusted.",
        epilog="An option without a value is written null or none, as in --modes none.",
    )
    subcommands = parser.add_subcommands(dest="command", required=False, title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        summary = inspect.getdoc(command.execute) or ""
        usage = f"physflow {name} {command.arguments} [options]"
        # These two print what they would do: the settings of one equation, or of the whole experiment.
        own = name in ("generate", "run")
        subparser = Parser(usage=usage, description=summary, **({"print_config": None} if own else {}))
        if name != "run":  # The experiment is its configuration.
            about = "a YAML file of the options below"
            if name == "train":
                about += f", or a published model's settings by name: {', '.join(builtin_presets())}"
            subparser.add_argument("--config", action="config", help=about)
        subparser.words = words
        command.add_options(subparser)
        debug = "show the traceback of an error (or set PHYSFLOW_DEBUG=1)"
        subparser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=debug)
        subcommands.add_subcommand(name, subparser, help=summary)
        parser.commands[name] = subparser
    return parser


def _with_presets(words: Sequence[str]) -> list[str]:
    """The words with the file of a preset in place of its name, after ``train --config``, and that before all options.

    An option overrules the file wherever it stands.

    Raises:
        ValueError: If what follows is neither a preset, nor a file, nor like the name of one.
    """
    presets, first, found = builtin_presets() if "train" in words[:1] else {}, list[str](), list[str]()
    for before, word in zip(("", *words), words, strict=False):
        name = word.removeprefix("--config=")
        if presets and (before == "--config" or name != word):
            if name in presets:
                word = word.removesuffix(name) + str(presets[name])
            elif not Path(name).exists() and not set(name) & {".", os.sep}:
                one_of("preset, and no file,", name, presets)
        (first if before == "--config" or word.startswith("--config") else found).append(word)
    return [*found[:1], *first, *found[1:]]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Carry out one command and leave by `SystemExit`.

    Arguments:
        arguments: What follows `physflow` on the command line; `sys.argv` by default.
    """
    words = sys.argv[1:] if arguments is None else arguments
    words = [re.sub(r"^(--[\w.]+=)?[Nn]one$", r"\1null", word) for word in words]
    parser = make_parser(words)
    try:
        words = _with_presets(words)
    except ValueError as error:
        parser.error(str(error))
    if not words:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    options = parser.parse_args(words).as_dict()
    command = COMMANDS[options["command"]]
    # One line, as an error is, without the line of source that Python shows.
    warnings.showwarning = lambda message, *_: print(f"physflow: warning: {message}", file=sys.stderr)
    try:
        code = command.execute(options[options["command"]])
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        debug = "--debug" in words or os.environ.get("PHYSFLOW_DEBUG", "0") not in ("", "0")
        if debug:
            traceback.print_exc()
        print(f"physflow: error: {error}", file=sys.stderr)
        if isinstance(error, RuntimeError) and not debug:
            print("physflow: --debug shows where it came from", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        resumes = command.resumes(options[options["command"]])
        after = "the same command resumes" if resumes else "no file was written"
        print(f"\nphysflow: interrupted; {after}", file=sys.stderr)
        code = 130
    raise SystemExit(code)
