"""The state of a training run and the two files that keep it.

``checkpoint.pt`` holds everything on which the rest of the run depends, so that an interrupted run goes on as
if nothing had happened. ``metrics.jsonl`` holds one JSON object per line:

* ``step``: the number of steps done,
* ``loss`` and ``gradient_norm`` (before clipping): means over the steps since the line before,
* ``learning_rate``: that of the step,
* ``validation_loss``: the loss of the averaged weights on the validation data, on the lines where it was computed;
  with a stochastic latent also ``validation_error``, the mean squared error in it, and ``validation_rate``, the
  divergence in nats.

Neither file holds a time, a host or a path, and loading runs no code from them.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Checkpoint", "Draws", "Record", "Stateful"]


class Stateful(Protocol):
    """A part of a run that can tell its state and take it back: a module, an optimiser, a schedule."""

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors and plain data."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take back a state."""
        ...


class Checkpoint:
    """The file ``checkpoint.pt``: the state of all parts of a run, and what the run is.

    Arguments:
        path: The file.
        parts: The parts of the run, by name. Each is read when the checkpoint is written and changed when it
            is restored.
        settings: What the run is, as plain data: a checkpoint of other settings is refused.
        data: What its data are, in words: a checkpoint made on other data gives a warning.
        defaults: What settings were before there were such: a checkpoint of an older version does not hold them.
    """

    def __init__(
        self,
        path: Path,
        parts: Mapping[str, Stateful],
        settings: Mapping[str, Any],
        data: str,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.parts, self.settings, self.data = path, parts, dict(settings), data
        self.defaults = dict(defaults or {})

    def write(self) -> None:
        """Write the file; whoever looks sees the old one or the new one, never half of one."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        partial = self.path.with_name(self.path.name + ".partial")
        torch.save({"settings": self.settings, "data": self.data, "parts": state}, partial)
        os.replace(partial, self.path)

    def restore(self) -> bool:
        """Give every part the state in the file, if there is one.

        Returns:
            Whether there was one.

        Raises:
            ValueError: If the checkpoint belongs to other settings or to another network.
        """
        if not self.path.exists():
            return False
        stored = torch.load(self.path, map_location="cpu", weights_only=True)
        old, new = _flat({**self.defaults, **stored["settings"]}), _flat(self.settings)
        differing = [k for k in dict.fromkeys([*old, *new]) if old.get(k) != new.get(k)]
        if differing:
            changes = ", ".join(f"{k} (checkpoint {old.get(k)!r}, now {new.get(k)!r})" for k in differing)
            raise ValueError(
                f"{self.path} was made with other settings: {changes}; "
                "give the settings of the checkpoint to go on with it, train in an empty folder, or start again "
                "(--overwrite)"
            )
        if stored["data"] != self.data:
            warnings.warn(
                f"{self.path} was made on other data ({stored['data']}; now {self.data}); "
                "the run goes on with the new ones",
                UserWarning,
                stacklevel=4,
            )
        for name, part in self.parts.items():
            try:
                part.load_state_dict(stored["parts"][name])
            except RuntimeError as error:
                raise ValueError(
                    f"the {name} in {self.path} does not fit: it was made for another network; give the "
                    f"network of the checkpoint to go on with it, or train in an empty folder ({error})"
                ) from error
        return True


class Draws:
    """All that a run draws: the order of its data, on the CPU, and the generator of its noise, on the device.

    Arguments:
        items: The number of items of the data; 0 for a stream, which has an order of its own.
        batch_size: The size of a batch; data with fewer items are one batch.
        seed: The seed.
        device: The device of the noise.
    """

    def __init__(self, items: int, batch_size: int, seed: int, device: torch.device) -> None:
        self.items, self.size = items, min(batch_size, items)
        # Far from the small seeds that the data themselves may have been drawn by.
        first = 2**31 + 2 * seed
        self.order = torch.Generator().manual_seed(first)
        self.noise = torch.Generator(device).manual_seed(first + 1)
        self._shuffle()

    def _shuffle(self) -> None:
        # A checkpoint keeps this state instead of the order of the epoch, which may be long.
        self._before = self.order.get_state()
        self._epoch, self._position = torch.randperm(self.items, generator=self.order), 0

    def indices(self) -> Tensor:
        """The items of the next batch; a new epoch begins where less than a batch is left of the old one."""
        if self._position + self.size > self.items:
            self._shuffle()
        self._position += self.size
        return self._epoch[self._position - self.size : self._position]

    def state_dict(self) -> dict[str, Any]:
        """The states of both generators and the position in the epoch."""
        noise = self.noise.get_state()
        return {"items": self.items, "position": self._position, "order": self._before, "noise": noise}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take back a state. Where the data have another size since, the epoch begins anew."""
        self.order.set_state(state["order"])
        self.noise.set_state(state["noise"])
        self._shuffle()
        self._position = state["position"] if state["items"] == self.items else 0


class Record:
    """The file ``metrics.jsonl``, the number of steps done, and the means that are on their way into it.

    Arguments:
        path: The file, or None to keep none.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.step = 0
        self._sums = {"loss": 0.0, "gradient_norm": 0.0}
        self._count = 0

    def add(self, loss: float, gradient_norm: float) -> None:
        """Count one step."""
        self.step += 1
        self._sums["loss"] += loss
        self._sums["gradient_norm"] += gradient_norm
        self._count += 1

    def write(self, **values: float) -> dict[str, float]:
        """Append a line, and return it: the means since the last one and the given values."""
        line = {
            "step": self.step,
            **{name: total / self._count for name, total in self._sums.items()},
            **values,
        }
        self._sums, self._count = dict.fromkeys(self._sums, 0.0), 0
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return line

    def truncate(self) -> None:
        """Drop the lines of steps that are not done: a run may have gone further than its checkpoint."""
        if self.path is None or not self.path.exists():
            return
        # A run that was killed may have left half a line, which is beyond its checkpoint too.
        lines = [line for line in self.path.read_text(encoding="utf-8").splitlines(True) if line.endswith("\n")]
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text("".join(x for x in lines if json.loads(x)["step"] <= self.step), encoding="utf-8")
        os.replace(partial, self.path)

    def state_dict(self) -> dict[str, Any]:
        """The step and the sums."""
        return {"step": self.step, "sums": dict(self._sums), "count": self._count}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take back a step and sums."""
        self.step, self._sums, self._count = state["step"], dict(state["sums"]), state["count"]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with one dotted name each, so that a difference can be named."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
