r"""What a network knows besides its state: the time :math:`t \in [0, 1]` and perhaps a latent :math:`z`.

A network reads time as sinusoids of many frequencies,

.. math:: \gamma(t) = (\cos \omega_1 t, \dots, \cos \omega_m t, \sin \omega_1 t, \dots, \sin \omega_m t),
          \qquad \omega_k = \omega_m^{(k - 1) / (m - 1)}.

The angular frequencies run from 1 to :math:`\omega_m = 1000`, so that :math:`t \in [0, 1]` moves every
pair by a radian or more. The usual choice, :math:`\omega_k = 10000^{-(k - 1) / m}`, was made for step numbers
from 0 to 1000: fed with t in [0, 1], as published flows do, it leaves nearly all features constant. It is
:math:`\omega_m = 10000^{-(m - 1) / m}` here, for those who repeat published numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Conditioning", "Sinusoids", "check_latent"]


class Sinusoids(nn.Module):
    r"""The features :math:`\gamma(t)` of the module's docstring.

    Arguments:
        features: The number of features :math:`2 m`, even.
        frequency: The last angular frequency :math:`\omega_m`, in radians per unit of time; the first is 1.

    Raises:
        ValueError: If `features` is not even and positive.

    References:
        Vaswani et al. (2017), Attention is all you need, section 3.5.
    """

    frequencies: Tensor

    def __init__(self, features: int, frequency: float = 1000.0) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise ValueError(f"features must be even and at least 2 (one cosine and one sine each), got {features}")
        self.register_buffer("frequencies", frequency ** torch.linspace(0, 1, features // 2), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """The features of the times `t`: shape (batch,) to (batch, features)."""
        # Formed in the precision of t, because a rounded angle of 1000 t is a wrong angle.
        angle = t[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], dim=1).to(self.frequencies.dtype)


class Conditioning(nn.Module):
    r"""Embeds time and latent into one vector that modulates every block of a network.

    .. math:: e(t, z) = W_2\, \mathrm{SiLU}(W_1 \gamma(t) + b_1) + b_2 + \ell(z),

    with :math:`\ell` linear, or two linear layers with SiLU between them.

    Arguments:
        features: The number of sinusoids of t.
        width: The width of the embedding :math:`e`.
        latent: The width of the latent :math:`z`; 0 for a network without one.
        latent_layers: The linear layers of :math:`\ell`, 1 or 2.
        frequency: The last angular frequency of the sinusoids.

    References:
        Samaddar et al. (2025), Efficient flow matching using latent variables (the latent is added to the
        time embedding, by one layer).
        Guo and Schwing (2025), Variational rectified flow matching, appendix D.3 (by two).
    """

    def __init__(
        self, features: int, width: int, latent: int = 0, latent_layers: int = 1, frequency: float = 1000.0
    ) -> None:
        super().__init__()
        sinusoids = Sinusoids(features, frequency)
        self.time = nn.Sequential(sinusoids, nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        self.width = latent
        self.latent: nn.Module | None = nn.Linear(latent, width) if latent else None
        if latent and latent_layers == 2:
            self.latent = nn.Sequential(nn.Linear(latent, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The embedding, shape (batch, width), of the times and latents that belong to the states `x`.

        Arguments:
            x: The states, shape (batch, ...); read for the size of the batch only.
            t: The times, shape (batch,).
            z: The latents, shape (batch, latent), or None.

        Raises:
            ValueError: If t or z does not belong to x, or if z is missing or superfluous.
        """
        batch = x.shape[0]
        if t.shape != (batch,):
            raise ValueError(
                f"expected one time per item, t of shape ({batch},), got {tuple(t.shape)}; "
                "repeat a single time by t.expand(batch)"
            )
        if self.latent is None:
            if z is not None:
                raise ValueError(
                    f"this network takes no latent, got z of shape {tuple(z.shape)}; "
                    "leave z out, or build the network with latent="
                )
            return self.time(t)
        return self.time(t) + self.latent(check_latent(z, batch, self.width))


def check_latent(z: Tensor | None, batch: int, width: int) -> Tensor:
    """The latent z, if it has the shape (batch, width); a ValueError that says what is wrong otherwise."""
    if z is None:
        raise ValueError(f"this network needs a latent z of shape ({batch}, {width}), got none")
    if z.shape != (batch, width):
        raise ValueError(
            f"expected a latent z of shape ({batch}, {width}), got {tuple(z.shape)}; every state needs its own, "
            "repeat a single one by z.expand(batch, -1)"
        )
    return z
