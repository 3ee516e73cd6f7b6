r"""A number type for compiled code: one value of each of `LANES` samples, in a vector register.

The solvers of `physflow.pde.compiled_multigrid` work on `LANES` systems at once. Their arrays hold the samples as the
fastest axis, so that one value of each sample is one vector: ``load(a, LANES * j)`` reads those of cell j, ``+ - * /``
act on each sample by itself, ``store`` writes back. Nothing mixes samples, so no result depends on its neighbours.

Plain loops over the samples would not do: the compiler must assume that the array it writes may overlap one that it
reads, and gives up on vectors, or checks for overlap at every cell. Here all loads of an expression come before its
store. That makes the solver two to three times as fast.
"""

from __future__ import annotations

import contextlib
import inspect
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

__all__ = ["LANES", "broadcast", "jit", "load", "narrow", "store", "widen"]

LANES = 8
"""How many samples are solved together: a vector of float64 fills one register of 512 bits or two of 256."""


class _Vector(types.Type):
    """The type of a vector of `LANES` floats."""

    def __init__(self, element: types.Float) -> None:
        self.element = element
        super().__init__(name=f"Vector({element}, {LANES})")


_SINGLE, _DOUBLE = _Vector(types.float32), _Vector(types.float64)
_LLVM = {_SINGLE: ir.VectorType(ir.FloatType(), LANES), _DOUBLE: ir.VectorType(ir.DoubleType(), LANES)}
_OF = {types.float32: _SINGLE, types.float64: _DOUBLE}


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: _Vector) -> None:
        super().__init__(manager, kind, _LLVM[kind])


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that holds no interpreter lock, and keep the result on disk where that is possible."""
    # Contraction to fused multiply-adds is the same for every lane; reordering of sums is not allowed.
    options: Any = {"nogil": True, "fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy"}
    try:
        compiled = njit(cache=True, **options)(function)
    except RuntimeError:  # No folder that can be written to, neither beside the source nor in the user's home.
        return njit(**options)(function)
    _forget_outdated(Path(compiled.stats.cache_path), function)
    return compiled


def _forget_outdated(folder: Path, function: Callable[..., Any]) -> None:
    """Remove from `folder` what was compiled of a function before one of the sources changed.

    numba itself compares with the source of the function alone, not with those of what it calls.
    """
    here = Path(__file__)
    sources = (here, *here.parent.glob("compiled_*.py"), Path(inspect.getfile(function)))
    newest = max(source.stat().st_mtime for source in sources)
    for index in folder.glob(f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}-*.nbi"):
        # Another process may do the same, or this one not be allowed to.
        with contextlib.suppress(OSError):
            if index.stat().st_mtime < newest:
                index.unlink()


def _define(operation: Callable[..., Any], instruction: str) -> None:
    class Template(ConcreteTemplate):
        cases = [signature(vector, vector, vector) for vector in _LLVM]  # noqa: RUF012

    infer_global(operation)(Template)
    for vector in _LLVM:

        @lower_builtin(operation, vector, vector)
        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args, flags=("contract", "nsz", "arcp"))


for _operation, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define(_operation, _instruction)


def _pointer(context: Any, builder: Any, array: Any, value: Any, index: Any) -> Any:
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [index]), _LLVM[_OF[array.dtype]].as_pointer())


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """The vector at array[index : index + LANES] of a one-dimensional contiguous array; the index is not checked."""
    vector = _OF[array.dtype]

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], *args)
        return builder.load(pointer, typ=_LLVM[vector], align=array.dtype.bitwidth // 8)

    return vector(array, types.intp), generate


@intrinsic
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a vector to array[index : index + LANES]; the index is not checked."""
    if value != _OF[array.dtype]:
        return None

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], *args[:2])
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.intp, value), generate


@intrinsic
def broadcast(typing_context: Any, number: Any) -> Any:
    """The vector that holds a number, float32 or float64, in every lane."""
    vector = _OF[number]

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        zero = ir.Constant(ir.IntType(32), 0)
        single = builder.insert_element(ir.Constant(_LLVM[vector], ir.Undefined), args[0], zero)
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return builder.shuffle_vector(single, single, mask)

    return vector(number), generate


@intrinsic
def widen(typing_context: Any, value: Any) -> Any:
    """A vector of float32 as float64."""
    return _DOUBLE(_SINGLE), lambda context, builder, sig, args: builder.fpext(args[0], _LLVM[_DOUBLE])


@intrinsic
def narrow(typing_context: Any, value: Any) -> Any:
    """A vector of float64 rounded to float32."""
    return _SINGLE(_DOUBLE), lambda context, builder, sig, args: builder.fptrunc(args[0], _LLVM[_SINGLE])
