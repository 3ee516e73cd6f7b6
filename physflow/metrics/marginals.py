r"""One-dimensional marginals of a law: of each value of a field, or of its coefficients in a basis.

In one dimension the optimal plan pairs sorted values. For two sets of n numbers

.. math:: W_1(X, Y) = \frac1n \sum_{i=1}^{n} |x_{(i)} - y_{(i)}|,

with :math:`x_{(1)} \le \dots \le x_{(n)}`. The coefficients of a field u at N points in modes :math:`m_j` are

.. math:: \xi_j = \sum_{i=1}^{N} m_{ij} u_i.

Modes :math:`m_j = \phi_j / \sqrt{\lambda_j}` of the eigenvectors and eigenvalues of a covariance whiten: the
coefficients of its law have the standard deviation 1 and are uncorrelated, and the mean over the modes of :math:`W_1`
counts fine and coarse modes alike. Marginals say nothing about how coefficients depend on one another.

References:
    G. Peyré, M. Cuturi, "Computational optimal transport", 2019, section 2.6 (the line).
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["coefficients", "coefficients_distance", "w1"]


def w1(x: Tensor, y: Tensor) -> Tensor:
    r""":math:`W_1` of two sets of as many numbers, of each coordinate apart: the mean distance of sorted values.

    Arguments:
        x: Numbers, shape (n, ...).
        y: As many, same shape.

    Returns:
        The distances, shape (...), float64, in the unit of the numbers; NaN where a number is.

    Raises:
        ValueError: If the shapes differ, or there are no numbers.

    References:
        G. Peyré, M. Cuturi, 2019, section 2.6.
    """
    if x.shape != y.shape:
        raise ValueError(f"expected two sets of one shape, got {tuple(x.shape)} and {tuple(y.shape)}: take as many")
    if x.ndim == 0 or not len(x):
        raise ValueError(f"expected sets of shape (n, ...) of at least one number, got {tuple(x.shape)}")
    return (x.double().sort(0).values - y.double().sort(0).values).abs().mean(0)


def coefficients(x: Tensor, modes: Tensor) -> Tensor:
    r"""The coefficients :math:`\xi` of fields in given modes.

    Arguments:
        x: Fields u of shape (n, *axes), N points in all, in any unit.
        modes: The modes m, shape (N, modes), points in the order of the flattened fields.

    Returns:
        The coefficients, shape (n, modes), float64, in the unit of the field times that of the modes.

    Raises:
        ValueError: If the modes do not have the points of the fields.
    """
    if x.ndim < 2 or modes.ndim != 2 or x.shape[1:].numel() != len(modes):
        raise ValueError(
            "expected fields of shape (n, *axes) and modes of shape (points, modes) at as many points, got "
            f"{tuple(x.shape)} and {tuple(modes.shape)}"
        )
    return x.flatten(1).double() @ modes.double()


def coefficients_distance(x: Tensor, y: Tensor, modes: Tensor) -> float:
    r"""The mean over the modes of :math:`W_1` of the coefficients of two sets of fields.

    Arguments:
        x: Fields of shape (n, *axes).
        y: As many, same shape.
        modes: The modes, shape (N, modes): whitened ones give the distance in standard deviations of a coefficient.

    Returns:
        The distance, in the unit of the coefficients.

    Raises:
        ValueError: If the shapes do not fit, or there are no fields.
    """
    return float(w1(coefficients(x, modes), coefficients(y, modes)).mean())
