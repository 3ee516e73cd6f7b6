"""An equation of your own: data, scores, a model and scored samples of it.

Run it: python examples/your_own_equation.py --out allen-cahn    # about two minutes on 2 cores

Two phases separate: Allen and Cahn's du/dt = w^2 (u_xx + u_yy) + u - u^3 on a periodic square.

Linear in waves but for the cube, it is a `Semilinear` equation, solved to fourth order. All else follows from the four
methods below: the residual of the scheme's own step, anchors of each score, files, training, samples.
"""

import argparse
from pathlib import Path

from torch import Tensor

import physflow
from physflow.config import MLPConfig, ModelConfig, TrainingConfig
from physflow.data.fourier import FourierSeries
from physflow.fitting import train_model
from physflow.grid import Grid
from physflow.pde import Semilinear, score


class AllenCahn(Semilinear):
    """Phase separation; `width` is that of the walls between the phases."""

    fields = solutions = ("phase",)

    def __init__(self, grid: Grid, width: float = 0.05, substeps: int = 10) -> None:
        super().__init__(grid, substeps)
        self.width = width

    def linear(self) -> tuple[Tensor, ...]:
        """What each wave grows by."""
        return (1 - self.width**2 * self.square,)

    def nonlinear(self, *spectra: Tensor) -> tuple[Tensor, ...]:
        """The waves of the cube."""
        return (-self.to_waves(self.to_points(spectra[0]) ** 3),)

    def attributes(self) -> dict[str, str | float]:
        """What rebuilds the equation from a file."""
        return {"equation": "AllenCahn", "width": self.width, "substeps": self.substeps}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default="allen-cahn", help="the folder of the data and the model")
    parser.add_argument("--samples", type=int, default=5000, help="how many to learn from")
    options = parser.parse_args()
    options.out.mkdir(exist_ok=True)
    equation = AllenCahn(Grid((6, 32, 32), ((0, 2), (0, 1), (0, 1)), axes=("t", "x", "y")))
    problem = physflow.data.Problem(equation, FourierSeries(equation.grid.space, std=0.3, alpha=4.0, tau=4.0))
    ds = physflow.data.generate(problem, options.samples, out=options.out / "data.nc", overwrite=True, progress=True)
    print(score(ds.isel(sample=slice(100)), anchors=True)["solution_error"].median("sample").to_series())
    training = TrainingConfig(steps=options.samples // 5, batch_size=256)
    config = ModelConfig(rank=64, mlp=MLPConfig(width=256))
    settings = {"model": config, "training": training, "overwrite": True, "progress": True}
    model = train_model(options.out / "data.nc", options.out / "model", **settings)
    print("generated:", float(model.sample(100, seed=1)["solution_error"].median()))
