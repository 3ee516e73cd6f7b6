"""Undo what is wrong with pairs, as far as it can be undone."""

from __future__ import annotations

import warnings

import torch
import xarray as xr

from physflow.data.auditing.auditor import Audit
from physflow.data.auditing.candidates import family_of
from physflow.data.auditing.pairing import belong, partners
from physflow.fields import SAMPLE, content_fingerprint, to_dataset, to_tensor

__all__ = ["repair"]

_UNDONE = (
    *("pairing", "orientation", "boundary", "equation", "centering", "spacing"),
    *("sign", "scale", "offset", "encoding"),
)
"""What can be undone without a solve."""

_PIECE = 256


def repair(ds: xr.Dataset, audit: Audit, solve: bool = False) -> xr.Dataset:
    """The pairs as the best reading has them.

    Turned fields are turned back, factors, constants and encodings are taken out of the fields (a factor of the
    solution, though it may have been one of the input), shuffled solutions are laid beside their inputs, coordinates
    become those of the equation's grid, and the attributes name the equation. Noise, shifted values and other schemes
    cannot be undone; with `solve` the solutions are solved for anew, from the inputs as they are, which mends
    all faults that are not those of an input.

    Arguments:
        ds: The pairs that were audited.
        audit: What was found.
        solve: Whether to solve for the solutions anew.

    Returns:
        The pairs, with the attribute ``repaired``: the kinds of the faults that were undone.

    Raises:
        ValueError: If there is nothing to go by: no reading explains the pairs, and they are not solved for.
    """
    reading, family = audit.reading, family_of(ds)
    equation, kinds = reading.equation, [fault.kind for fault in audit.faults]
    if "unexplained" in kinds and not solve:
        raise ValueError(
            "no reading explains the pairs, so nothing says how to repair them; solve=True (--solve) keeps the inputs "
            "and solves for the solutions"
        )
    undone = [kind for kind in dict.fromkeys(kinds) if kind in _UNDONE or (solve and kind != "constants")]
    u, q = to_tensor(ds, family.fields).unbind(1)
    if "pairing" in kinds and not solve:
        q, near = _beside(u, q, audit)
        if not near.all():
            warnings.warn(
                f"{int((~near).sum())} of {len(near)} inputs have no solution in the file and are left out; solve=True "
                "(--solve) keeps them",
                UserWarning,
                stacklevel=2,
            )
        u = u[near]
    else:
        near = torch.ones(len(u), dtype=torch.bool)
    u = reading.inputs(reading.encoding(u))
    if solve:
        q = torch.cat([equation.solve(piece) for piece in u.split(_PIECE)])
    else:
        q = (reading.solutions(q) - reading.offset * (not equation.up_to_a_constant)) / reading.scale
    dtype = torch.float64 if ds[family.solutions[0]].dtype == "float64" else torch.float32
    attrs = {**ds.attrs, **equation.attributes()}
    found = to_dataset(torch.stack([u, q], 1).to(dtype), family.fields, equation.grid, attrs)
    if attrs.get("source") == "custom":
        found["source"] = (equation.grid.axes, getattr(equation, "source_term").numpy())  # noqa: B009
    # What there is to say of single samples goes with them.
    beside = {name: v for name, v in ds.variables.items() if v.dims == (SAMPLE,)}
    kept = ds[list(beside)].isel({SAMPLE: near.numpy()}) if beside else xr.Dataset()
    found = found.assign({name: kept[name] for name in kept.data_vars}).assign_coords(kept.coords)
    return found.assign_attrs(repaired=", ".join(undone), fingerprint=content_fingerprint(found))


def _beside(u: torch.Tensor, q: torch.Tensor, audit: Audit) -> tuple[torch.Tensor, torch.Tensor]:
    """The solutions in the order of their inputs, and the inputs that have one."""
    reading, numbers, sines = audit.reading, [], []
    turned = reading.solutions(q)
    for piece in u.split(_PIECE):
        s = reading.equation.solve(reading.inputs(reading.encoding(piece)))
        number, sine = partners(s, turned.split(_PIECE))
        numbers.append(number)
        sines.append(sine)
    near = belong(torch.cat(sines))
    return q[torch.cat(numbers)[near]], near
