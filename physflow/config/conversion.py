"""Settings from and to plain data (dicts, lists, numbers, strings), as YAML and JSON hold them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from physflow.config.checks import nearest, one_of

__all__ = ["builtin_experiments", "builtin_models", "fingerprint", "from_dict", "to_dict"]

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain data (dicts, lists, numbers, strings), ready for YAML or JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """The dataclass `cls` from plain data.

    Raises:
        ValueError: If a key is unknown (with the nearest valid one) or a value has the wrong type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"expected settings for {where or cls.__name__} as a mapping, got {values!r}")
    kinds = typing.get_type_hints(cls)
    hints = {f.name: kinds[f.name] for f in dataclasses.fields(typing.cast(Any, cls))}
    arguments = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in hints:
            raise ValueError(f"unknown key '{path}'; {nearest(str(key), hints)}")
        arguments[key] = _convert(hints[key], value, path)
    try:
        return cls(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from None


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, path)
    if origin is Literal:
        # On a command line and in YAML none and null are one word, except where "none" is a choice.
        value = "none" if value in (None, "null") and "none" in options else value
        one_of(path, value, options)
        return value
    if origin in (typing.Union, types.UnionType) and dataclasses.is_dataclass(options[0]):
        return _convert_choice(options, value, path)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(options, value, path)
    if origin is tuple:
        return _convert_tuple(hint, value, path)
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        # YAML 1.1 reads 1e-3, without a point, as text.
        with contextlib.suppress(ValueError):
            return float(value)
    if not isinstance(hint, type) or not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"expected {path} to be {getattr(hint, '__name__', hint)}, got {value!r}")
    return value


def _convert_choice(options: tuple[Any, ...], value: Any, path: str) -> Any:
    """Settings of one of several kinds, which the key ``equation`` names; the first kind is Darcy's, and has no key."""
    kinds = {"darcy": options[0], **{option().equation: option for option in options[1:]}}
    if not isinstance(value, dict):
        return from_dict(options[0], value, path)
    name = value.get("equation", "darcy")
    one_of(f"{path}.equation", name, kinds)
    rest = {key: v for key, v in value.items() if key != "equation"}
    return from_dict(kinds[name], rest, path)


def _convert_union(options: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in options:
        return None
    lists = [option for option in options if typing.get_origin(option) is tuple]
    scalar = next(option for option in options if option is not type(None) and option not in lists)
    if not lists:
        return _convert(scalar, value, path)
    if isinstance(value, list | tuple):
        return _convert_tuple(lists[0], value, path)
    try:
        return _convert(scalar, value, path)
    except ValueError:
        raise ValueError(f"expected {path} to be {scalar.__name__} or {_kind(lists[0])}, got {value!r}") from None


def _convert_tuple(hint: Any, value: Any, path: str) -> tuple[Any, ...]:
    options = typing.get_args(hint)
    if isinstance(value, str) and options[0] is str:
        value = [name.strip() for name in value.split(",")]
    free = options[-1] is Ellipsis
    if not isinstance(value, list | tuple) or not (free or len(value) == len(options)):
        raise ValueError(f"expected {path} to be {_kind(hint)}, got {value!r}")
    kinds = (options[0],) * len(value) if free else options
    return tuple(_convert(kind, item, path) for kind, item in zip(kinds, value, strict=True))


def _kind(hint: Any) -> str:
    """A tuple's type in words."""
    options = typing.get_args(hint)
    number = "" if options[-1] is Ellipsis else f"{len(options)} "
    return f"a list of {number}{options[0].__name__}"


def fingerprint(config: Any) -> str:
    """A name for the content of a dataclass or of plain data: 16 hexadecimal digits of a SHA-256."""
    content = to_dict(config) if dataclasses.is_dataclass(config) else config
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def builtin_experiments() -> dict[str, Path]:
    """The experiments that ship with physflow: name and YAML file."""
    return {path.stem: path for path in sorted((Path(__file__).parent.parent / "experiments").glob("*.yaml"))}


def builtin_models() -> dict[str, Path]:
    """The trained models that ship with physflow: name and folder."""
    folder = Path(__file__).parent.parent / "models"
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/config.yaml"))}
