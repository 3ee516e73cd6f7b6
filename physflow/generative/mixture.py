r"""A mixture of normal laws with diagonal covariances, fitted to data by cross-entropy.

.. math:: q(x) = \sum_{k=1}^K w_k \prod_{j=1}^d N(x_j; m_{kj}, s_{kj}^2), \qquad w = \mathrm{softmax}(a).

The parameters are the logits :math:`a`, the means :math:`m` and the log-variances :math:`\log s^2`. The fit minimises
the cross-entropy of the data, in nats,

.. math:: H(p, q) = -E_{x \sim p} \log q(x),

by Adam over minibatches; its least value over all q is that of maximum likelihood. It works on data scaled to mean
zero and variance one in every coordinate, which adds a constant to H, and the steps of a mean are in units of its
component's standard deviation: the learning rate is free of units. It starts from a k-means clustering, whose centres
are spread by k-means++: an item far from all centres is likely to become the next.

A component that no longer describes data is an error, for whatever is told its number would learn nothing: a weight
below a hundredth of the equal share :math:`1/K`, a variance below :math:`10^{-6}` of that of the data, or no item
that belongs to it more than to others.

References:
    D. Arthur, S. Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
    G. Pichler et al., "A differential entropy estimator for training neural networks", ICML 2022 (the cross-entropy).
    A. Samaddar et al., "Efficient flow matching using latent variables", 2025, appendix F (its use in Latent-CFM).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm import trange

from physflow.config.checks import at_least, positive
from physflow.generative.checkpoints import Draws

__all__ = ["DiagonalMixture"]

LEAST_SHARE = 0.01
LEAST_VARIANCE = 1e-6
# A cluster of a single item has none.
START_VARIANCE = 1e-5
# Enough to place the centres, and little enough to hold all distances to them.
START_ITEMS = 10_000
START_ROUNDS = 20
# The items whose densities are held at once when all the data are read.
BLOCK = 4096


class DiagonalMixture(nn.Module):
    """The mixture of the module's docstring; before `fit`, every component is N(0, I).

    Arguments:
        components: The number K of components.
        dimension: The number d of coordinates.

    Attributes:
        logits: The logits of the weights, shape (components,).
        means: The means, shape (components, dimension).
        log_variances: The logarithms of the variances, same shape.

    Raises:
        ValueError: If a size is not positive.
    """

    def __init__(self, components: int, dimension: int) -> None:
        super().__init__()
        at_least(1, components=components, dimension=dimension)
        self.components, self.dimension = components, dimension
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.zeros(components, dimension))
        self.log_variances = nn.Parameter(torch.zeros(components, dimension))

    @property
    def weights(self) -> Tensor:
        """The weights w, shape (components,), with sum one."""
        return self.logits.softmax(0)

    def log_prob(self, x: Tensor) -> Tensor:
        r"""The log-density :math:`\log q(x)` in nats of points (batch, dimension), shape (batch,).

        Raises:
            ValueError: If the points have another shape.
        """
        return self._log_joint(x).logsumexp(1)

    def responsibilities(self, x: Tensor) -> Tensor:
        r"""The probabilities :math:`w_k N(x; m_k, s_k^2) / q(x)` of the components given points (batch, dimension).

        Returns:
            A tensor of shape (batch, components) with rows of sum one.

        Raises:
            ValueError: If the points have another shape.
        """
        return self._log_joint(x).softmax(1)

    @torch.no_grad()
    def ids(self, x: Tensor) -> Tensor:
        """The most probable component of each point (batch, dimension): int64, shape (batch,).

        Where components overlap, their shares among these ids differ from the weights.

        Raises:
            ValueError: If the points have another shape.
        """
        return self._log_joint(x).argmax(1)

    @torch.no_grad()
    def sample_ids(self, n: int, generator: torch.Generator) -> Tensor:
        """Components drawn with their weights: int64, shape (n,), on the mixture's device.

        Arguments:
            n: The number of draws.
            generator: The random numbers; it may live on another device than the mixture.
        """
        u = torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device).to(self.logits.device)
        ids = torch.searchsorted(self.logits.double().softmax(0).cumsum(0), u, right=True)
        # The last sum may be one rounding below 1.
        return ids.clamp(max=self.components - 1)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Points drawn from the mixture, shape (n, dimension), in its precision and on its device.

        Arguments:
            n: The number of draws.
            generator: The random numbers; it may live on another device than the mixture.
        """
        ids, means = self.sample_ids(n, generator), self.means
        white = torch.randn(n, self.dimension, generator=generator, dtype=means.dtype, device=generator.device)
        return means[ids] + (0.5 * self.log_variances[ids]).exp() * white.to(means.device)

    def fit(
        self,
        data: Tensor,
        steps: int = 2000,
        batch_size: int = 1024,
        learning_rate: float = 1e-2,
        seed: int = 0,
        progress: bool = False,
    ) -> float:
        """Fit the mixture to data; what it was before does not matter, and an error leaves it so.

        The same data, settings and machine give the same mixture.

        Arguments:
            data: The items, shape (items, dimension); cast to the mixture's precision and device.
            steps: Steps of Adam.
            batch_size: The items of a step; with as many as there are, every step reads all of them.
            learning_rate: The learning rate of the first step; it falls to zero along a cosine.
            seed: The seed of the start and of the minibatches.
            progress: Whether to show a progress bar.

        Returns:
            The cross-entropy of the data, in nats.

        Raises:
            ValueError: If a setting is impossible, the data do not fit, or a component died.
        """
        at_least(1, steps=steps, batch_size=batch_size)
        positive(learning_rate=learning_rate)
        items, mean, std = self._scaled(data)
        draws = Draws(len(items), batch_size, seed, torch.device("cpu"))
        # The scaled data have a mixture of their own, so that this one changes only when the fit is done.
        scaled = DiagonalMixture(self.components, self.dimension).to(items)
        scaled._start(items, draws.noise)
        optimizer = torch.optim.Adam(scaled.parameters(), learning_rate)
        schedule = CosineAnnealingLR(optimizer, steps)
        for _ in trange(steps, desc="mixture", disable=not progress):
            loss = -scaled.log_prob(items[draws.indices().to(items.device)]).mean()
            optimizer.zero_grad()
            loss.backward()
            before, spread = scaled.means.detach().clone(), (0.5 * scaled.log_variances.detach()).exp()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                # Adam's steps are as long for a narrow component as for a wide one, and would throw it off its data.
                scaled.means.copy_(before.lerp(scaled.means, spread))
                scaled.log_variances.clamp_(min=math.log(LEAST_VARIANCE))
        with torch.no_grad():
            entropy = scaled._checked_entropy(items)
            self.logits.copy_(scaled.logits.log_softmax(0))
            self.means.copy_(mean + std * scaled.means)
            self.log_variances.copy_(scaled.log_variances + 2 * std.log())
        return entropy + std.double().log().sum().item()

    def _log_joint(self, x: Tensor) -> Tensor:
        """The logarithms of w_k N(x; m_k, s_k^2), shape (batch, components)."""
        if x.ndim != 2 or x.shape[1] != self.dimension:
            raise ValueError(f"expected points of shape (batch, {self.dimension}), got {tuple(x.shape)}")
        constant = self.logits.log_softmax(0) - 0.5 * (self.log_variances + math.log(2 * math.pi)).sum(1)
        # One component after the other: with all at once, the differences would be K times the data.
        parts = zip(self.means, (-0.5 * self.log_variances).exp(), strict=True)
        squares = torch.stack([((x - m) * inverse).square().sum(1) for m, inverse in parts], dim=1)
        return constant - 0.5 * squares

    @torch.no_grad()
    def _scaled(self, data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The data with mean zero and variance one in every coordinate, and their mean and standard deviation."""
        if data.ndim != 2 or data.shape[1] != self.dimension:
            raise ValueError(f"expected data of shape (items, {self.dimension}), got {tuple(data.shape)}")
        if len(data) <= self.components:
            raise ValueError(
                f"expected more data than the {self.components} components, got {len(data)} items; "
                "give more data or fewer components"
            )
        if not data.isfinite().all():
            raise ValueError("cannot fit a mixture: the data hold values that are NaN or infinite")
        data = data.to(self.means)
        variance, mean = torch.var_mean(data, dim=0, correction=0)
        constant = (data.amin(0) == data.amax(0)).nonzero().flatten().tolist()
        if constant:
            raise ValueError(
                f"coordinate {constant[0]} is the same in all items ({len(constant)} such of {self.dimension}): "
                "it has no density; leave it out"
            )
        std = variance.sqrt()
        return (data - mean) / std, mean, std

    @torch.no_grad()
    def _start(self, items: Tensor, generator: torch.Generator) -> None:
        """The weights, means and variances of a clustering by k-means."""
        x = items[torch.randperm(len(items), generator=generator)[:START_ITEMS].to(items.device)]
        centres = _spread(x, self.components, generator)
        for _ in range(START_ROUNDS):
            member = one_hot(torch.cdist(x, centres).argmin(1), self.components).to(x)
            count = member.sum(0)[:, None]
            # A centre that has lost all its items stays where it is.
            centres = torch.where(count > 0, member.T @ x / count.clamp(min=1), centres)
        variance = member.T @ x.square() / count.clamp(min=1) - centres.square()
        self.logits.copy_((count[:, 0] + 1).log())
        self.means.copy_(centres)
        self.log_variances.copy_(variance.clamp(min=START_VARIANCE).log())

    def _checked_entropy(self, items: Tensor) -> float:
        """The cross-entropy of scaled items, after making sure that every component describes some of them."""
        joint = torch.cat([self._log_joint(block) for block in items.split(BLOCK)])
        counts = joint.argmax(1).bincount(minlength=self.components).tolist()
        floored = (self.log_variances <= math.log(LEAST_VARIANCE * (1 + 1e-3))).any(1).tolist()
        least = LEAST_SHARE / self.components
        for k, (weight, count) in enumerate(zip(self.weights.tolist(), counts, strict=True)):
            reason = ""
            if weight < least:
                reason = f"its weight is below {least:.2g}, a hundredth of an equal share"
            elif floored[k]:
                reason = f"its variance along a coordinate fell to {LEAST_VARIANCE:g} of that of the data"
            elif count == 0:
                reason = "no item belongs to it more than to the others"
            if reason:
                raise ValueError(
                    f"component {k} of {self.components} died: {reason} (weight {weight:.3g}, {count} of {len(items)} "
                    "items); give fewer components, another seed or more data"
                )
        return -joint.double().logsumexp(1).mean().item()


def _spread(x: Tensor, components: int, generator: torch.Generator) -> Tensor:
    """Centres among the items, by k-means++ with the best of a few candidates for each."""

    def draw(weights: Tensor, n: int) -> Tensor:
        u = torch.rand(n, generator=generator, dtype=torch.float64).to(x.device)
        sums = weights.double().cumsum(0)
        return torch.searchsorted(sums, u * sums[-1], right=True).clamp(max=len(x) - 1)

    candidates = 2 + int(math.log(components))
    centres = x[draw(x.new_ones(len(x)), 1)]
    nearest = torch.cdist(x, centres).square()[:, 0]
    while len(centres) < components:
        if not nearest.any():
            raise ValueError(
                f"the data hold {len(centres)} different items, too few for {components} components; "
                "give fewer components"
            )
        new = x[draw(nearest, candidates)]
        distance = torch.minimum(nearest[:, None], torch.cdist(x, new).square())
        best = distance.sum(0).argmin()
        centres, nearest = torch.cat([centres, new[best, None]]), distance[:, best]
    return centres
