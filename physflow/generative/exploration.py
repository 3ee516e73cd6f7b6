r"""Looking into a latent: what its coordinates do, and what it leaves open.

A flow with a latent draws :math:`z \sim N(0, I)` of d coordinates (or takes it from an encoder) and
:math:`x_0 \sim p_0`, and solves :math:`dx/dt = v(x, t, z)`. Two pictures tell what is in z:

* a traversal: :math:`x_0` is kept and two coordinates of z run over a grid. Equal steps in probability,
  :math:`z_i = \Phi^{-1}(q_i)` with :math:`\Phi` the normal distribution function, visit what the prior draws
  with equal weight;
* many from one: z is kept and :math:`x_0` is drawn anew. What the samples share is in z, their spread is not.

References:
    A. Samaddar et al., "Efficient flow matching using latent variables", 2025, section 4.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from physflow.generative.integrators import Heun, Solver, integrate
from physflow.generative.paths import Velocity
from physflow.generative.sources import Gaussian, Source

__all__ = ["latent_grid", "latent_values", "many_from_one", "traverse"]

_HEUN = Heun()
_GAUSSIAN = Gaussian()


def latent_values(
    n: int, quantiles: tuple[float, float] = (0.05, 0.95), radius: float | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    r"""The values a latent coordinate runs through: :math:`\Phi^{-1}(q_i)`, or equally spaced within a radius.

    Arguments:
        n: How many; a single one is the middle of the range.
        quantiles: The first and the last :math:`q_i`, in (0, 1); those between are equally spaced.
        radius: If given, the values run in equal steps from minus to plus this radius instead.
        dtype: The floating-point type; torch's default if None.

    Returns:
        The rising values, shape (n,).

    Raises:
        ValueError: If n is less than 1, the quantiles do not rise within (0, 1), or the radius is not positive.
    """
    if n < 1:
        raise ValueError(f"expected at least one value for a latent coordinate, got n = {n}")
    if radius is not None and not 0 < radius < torch.inf:
        raise ValueError(f"radius must be positive and finite, got {radius}")
    low, high = quantiles
    if not 0 < low < high < 1:
        raise ValueError(f"quantiles must rise and lie strictly between 0 and 1, got {low} and {high}")
    steps = (torch.arange(n, dtype=torch.float64) + 0.5 * (n == 1)) / max(n - 1, 1)
    values = torch.special.ndtri(low + (high - low) * steps) if radius is None else radius * (2 * steps - 1)
    return values.to(dtype or torch.get_default_dtype())


def latent_grid(
    n: int | tuple[int, int],
    dimension: int,
    quantiles: tuple[float, float] = (0.05, 0.95),
    radius: float | None = None,
    axes: tuple[int, int] = (0, 1),
    base: Tensor | None = None,
) -> Tensor:
    """Latents of which two coordinates run over a grid, the others being those of `base`.

    Arguments:
        n: The number of rows and columns of the grid, or both.
        dimension: The number d of coordinates of the latent.
        quantiles: The range of the two coordinates in probability; see `latent_values`.
        radius: If given, the two coordinates run in equal steps within this radius instead.
        axes: Which coordinates run: the first down the rows, the second along the columns.
        base: The other coordinates, shape (d,): an encoded item, say. Zero, the middle of the prior, by default.

    Returns:
        The latents, shape (rows * columns, d), row by row: ``z.unflatten(0, (rows, columns))`` is the grid.

    Raises:
        ValueError: If the latent has fewer than two coordinates, the axes are not two of them, `base` has another
            shape, or n, quantiles or radius are wrong.

    References:
        A. Samaddar et al., 2025, section 4.4.
    """
    rows, columns = (n, n) if isinstance(n, int) else n
    if dimension < 2:
        raise ValueError(f"a grid runs over two coordinates, but the latent has {dimension}; use latent_values")
    if len(set(axes)) != 2 or not all(0 <= axis < dimension for axis in axes):
        raise ValueError(f"axes must be two different coordinates of 0 to {dimension - 1}, got {axes}")
    z0 = torch.zeros(dimension) if base is None else base
    if z0.shape != (dimension,):
        raise ValueError(f"expected base to be one latent of shape ({dimension},), got {tuple(z0.shape)}")
    z = z0.expand(rows, columns, dimension).clone()
    z[..., axes[0]] = latent_values(rows, quantiles, radius, z.dtype)[:, None].to(z.device)
    z[..., axes[1]] = latent_values(columns, quantiles, radius, z.dtype).to(z.device)
    return z.flatten(0, 1)


def traverse(generate: Callable[[Tensor], Tensor], z: Tensor, batch_size: int = 64) -> Tensor:
    """What is generated from each latent of a grid.

    Keep the source fixed where only the latent is to act::

        x0 = Gaussian().sample((1, 2, 64, 64), generator)
        z = latent_grid(7, dimension=8)
        fields = traverse(lambda z: integrate(v, x0.expand(len(z), -1, -1, -1), z=z), z.unflatten(0, (7, 7)))

    Arguments:
        generate: Maps latents (batch, d) to items (batch, ...); a decoder, or a flow as above. Called without gradient.
        z: The latents, shape (..., d).
        batch_size: How many latents `generate` gets at a time.

    Returns:
        The items, shape (..., *item): the leading axes are those of `z`.

    Raises:
        ValueError: If there are no latents, `batch_size` is less than 1, or `generate` returns another number of items.

    References:
        A. Samaddar et al., 2025, section 4.4.
    """
    _check_batch_size(batch_size)
    if z.ndim < 2 or z.numel() == 0:
        raise ValueError(f"expected latents of shape (..., d), at least one, got {tuple(z.shape)}")
    parts = []
    with torch.no_grad():
        for part in z.flatten(0, -2).split(batch_size):
            items = generate(part)
            if items.shape[:1] != part.shape[:1]:
                raise ValueError(f"generate must return one item a latent: got {tuple(items.shape)} for {len(part)}")
            parts.append(items)
    return torch.cat(parts).unflatten(0, z.shape[:-1])


def many_from_one(
    velocity: Velocity,
    z: Tensor,
    n: int,
    shape: Sequence[int],
    generator: torch.Generator,
    solver: Solver = _HEUN,
    steps: int = 10,
    source: Source = _GAUSSIAN,
    batch_size: int = 64,
) -> Tensor:
    """Many samples of one latent: x0 is drawn anew for each, z is the same.

    Arguments:
        velocity: v(x, t, z).
        z: The latent, shape (d,) or (1, d); its type and device are those of the samples.
        n: The number of samples.
        shape: The shape of one item, such as (channel, *axes).
        generator: The random numbers of the source. All starting points are drawn first, so that `batch_size` has no
            influence on them.
        solver: The integrator.
        steps: Its number of steps.
        source: The law of the starting points.
        batch_size: How many items are integrated at a time.

    Returns:
        The samples, shape (n, *shape).

    Raises:
        ValueError: If z is not one latent, or n or `batch_size` is less than 1.
        FloatingPointError: If a sample stops being finite.

    References:
        A. Samaddar et al., 2025, section 4.4.
    """
    _check_batch_size(batch_size)
    if n < 1:
        raise ValueError(f"expected at least one sample, got n = {n}")
    one = z[None] if z.ndim == 1 else z
    if one.ndim != 2 or len(one) != 1:
        raise ValueError(f"expected one latent of shape (d,) or (1, d), got {tuple(z.shape)}")
    x0 = source.sample((n, *shape), generator, one.dtype, one.device)
    with torch.no_grad():
        parts = [integrate(velocity, x, solver, steps, one.expand(len(x), -1)) for x in x0.split(batch_size)]
    return torch.cat(parts)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
