"""Make Darcy pairs, look at their score, and at what the score says of small errors in the pressure.

Run it: python examples/generate_and_score.py
"""

import physflow

ds = physflow.data.darcy.generate(100, resolution=64, modes=64, seed=0)
print(ds)

# Beside the fields stand others whose quality is known: a row an anchor, a column a median over the samples.
scores = physflow.pde.score(ds, anchors=True)
print(scores[["residual_mse", "solution_error"]].median("sample").to_dataframe())

# The equation that made the data is an object: residual, solution and adjoint of one discretisation.
darcy = physflow.pde.from_dataset(ds)
permeability, pressure = (physflow.fields.to_tensor(ds, [name])[:, 0] for name in darcy.fields)
permeability.requires_grad_()
mean_square = darcy.solve(permeability).square().mean()
mean_square.backward()
print(f"mean p^2 = {mean_square:.6f}; largest |d(mean p^2)/dK| = {permeability.grad.abs().max():.3g}")
