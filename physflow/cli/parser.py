"""A parser that takes its options from dataclasses and says plainly what is wrong with an argument.

One field of a dataclass is one option: its name, its type, its default and, from the section `Attributes:` of
the docstring, its help. jsonargparse reads the same names from a YAML file (`--config`) and writes them
(`--print_config`).
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import typing
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from jsonargparse import ArgumentParser

from physflow.config import nearest

__all__ = ["Parser"]


class Parser(ArgumentParser):
    """An `ArgumentParser` with options from dataclasses; each of its errors names the nearest valid name."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self.words: Sequence[str] = ()
        """What is to be parsed, for options that depend on others."""
        self.types: dict[str, str] = {}
        self.commands: dict[str, Parser] = {}

    def add_settings(
        self, cls: type, prefix: str = "", defaults: bool = True, *, told: bool = False, hidden: bool = False
    ) -> None:
        """Add one option per field of the dataclass `cls`.

        Arguments:
            cls: The dataclass; a field that is itself a dataclass becomes a group with its name as prefix.
            prefix: What comes before the names, such as ``"model."``.
            defaults: Whether an option that is not given takes the dataclass's default, or is left out.
            told: Whether the help tells the dataclass's defaults all the same.
            hidden: Whether the help leaves the options out.
        """
        hints, descriptions = typing.get_type_hints(cls), _descriptions(cls)
        summary = (inspect.getdoc(cls) or "").split("\n")[0]
        group = self if hidden else self.add_argument_group(prefix.removesuffix(".") or "settings", summary)
        for f in dataclasses.fields(cls):
            name, hint, metavar = f"{prefix}{f.name}", hints[f.name], None
            if f"--{name}" in self._option_string_actions:
                # Settings of several kinds share names, and each has choices of its own.
                if typing.get_origin(hint) is Literal:
                    action = self._option_string_actions[f"--{name}"]
                    known = str(action.metavar).strip("{}").split(",")
                    action.metavar = "{" + ",".join(dict.fromkeys([*known, *typing.get_args(hint)])) + "}"
                continue
            if dataclasses.is_dataclass(next(iter(typing.get_args(hint)), None)):
                # Of several kinds, all; a list of settings is for files.
                kinds = () if typing.get_origin(hint) is tuple else typing.get_args(hint)
                for kind in kinds:
                    self.add_settings(kind, f"{name}.", defaults)
                continue
            if dataclasses.is_dataclass(hint):
                self.add_settings(typing.cast(type, hint), f"{name}.", defaults)
                continue
            if typing.get_origin(hint) is Literal:
                # `physflow.config.from_dict` judges the value: it knows the nearest valid one.
                metavar = "{" + ",".join(typing.get_args(hint)) + "}"
                hint = str
            elif hint == tuple[str, ...]:
                hint = list[str] | str
            self.types[name] = _type_name(hint)
            default: Any = f.default if defaults else argparse.SUPPRESS
            words = descriptions[f.name] + (f" [{_plain(f.default)}]" if told else "")
            words = argparse.SUPPRESS if hidden else words
            group.add_argument(f"--{name}", type=hint, default=default, help=words, metavar=metavar)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, and the likely fix, and exit with 2."""
        # A message about a command can come from the parser above it, with the command's name as prefix.
        command = next((word for word in getattr(self, "args", ()) if word in self.commands), None)
        parser = self.commands[command] if command else self
        explained = parser.explain(re.sub(rf"([ '\"]){command}\.", r"\1", message) if command else message)
        self.exit(2, f"physflow: error: {explained}\n")

    def explain(self, message: str) -> str:
        """Say jsonargparse's message in the user's terms; a message of another shape stays as it is."""
        # Versions of jsonargparse word the same thing differently.
        if found := re.match(r"[Uu]nrecognized arguments: (.*)", message, re.DOTALL):
            words = found[1].split()
            unknown = next((word.split("=")[0] for word in words if word.startswith("-")), None)
            if unknown is None:
                return f"unexpected argument {words[0]!r}; options begin with --"
            return f"unknown option {unknown}; {_hint(unknown, self._options('--'))}"
        if found := re.search(r"""arguments are required: (.*)|Key (".*?") is required""", message):
            options = [option for action in self._actions for option in action.option_strings]
            missing = (found[1] or found[2].strip('"')).split(", ")
            names = [f"--{name}" if f"--{name}" in options else name.upper() for name in missing]
            return f"missing {', '.join(names)}; usage: {self.usage}"
        if found := re.search(r"invalid choice: '(.*?)'", message):
            return f"unknown command {found[1]!r}; {nearest(found[1], self.commands)}"
        if message.startswith("Unexpected config"):
            return "the configuration file must hold one mapping of option names to values"
        found = re.search(r"""(?:option|key) ['"]([\w.+-]+)['"]""", message, re.IGNORECASE)
        if found and found[1] not in [action.dest for action in self._actions]:
            return f"unknown key {found[1]!r} in the configuration; {_hint(found[1], self._options())}"
        value = re.search(r"(?:Got|Given) value: (.*)", message)
        if found and value and found[1] in self.types:
            return f"expected {found[1]} to be {self.types[found[1]]}, got {value[1]!r}"
        return re.sub(r'^Parser key "(.*?)":\s*', r"\1: ", message)

    def _options(self, prefix: str = "") -> list[str]:
        """The names that can be given, with the prefix ``"--"`` on the command line, without it in a file."""
        names = [name for action in self._actions for name in action.option_strings or [action.dest]]
        beside = ("--config", "--print_config", "--debug")
        hidden = ("-h", "--help", "--print_shtab", *(() if prefix else beside))
        # A list option has a second name, with a plus.
        valid = [name for name in names if name.startswith(prefix) and name not in hidden and name[-1] != "+"]
        return [prefix + name.removeprefix("--") for name in valid]


def _hint(name: str, valid: list[str]) -> str:
    """The nearest valid name: in its group, or in another if only the group is wrong (--steps)."""
    group, _, last = name.lstrip("-").rpartition(".")
    elsewhere = [option for option in valid if option.rpartition(".")[2] == last]
    if elsewhere:
        return f"did you mean {' or '.join(map(repr, elsewhere))}?"
    siblings = [option for option in valid if option.lstrip("-").rpartition(".")[0] == group]
    return nearest(name, siblings or valid)


def _descriptions(cls: type) -> dict[str, str]:
    section = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    pairs = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).rstrip(".") for name, text in pairs}


def _plain(value: Any) -> str:
    """A default, as it is written on the command line."""
    words = "null" if value is None else str(value)
    return words.strip("()").replace(" ", "") if isinstance(value, tuple) else words


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) in (list, tuple):
        options = typing.get_args(hint)
        # A tuple of any length, tuple[int, ...], and list[int] name one type; a pair names two.
        number = f"{len(options)} " if len(options) > 1 and options[-1] is not Ellipsis else ""
        return f"a list of {number}{options[0].__name__}, such as [1,2]"
    names = [_type_name(option) for option in typing.get_args(hint)]
    return " or ".join(names) if names else "null" if hint is type(None) else hint.__name__
