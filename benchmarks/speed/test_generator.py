"""How fast Darcy pairs are made: random field, solve and rounding, everything but the file.

Run it: pytest benchmarks/speed --benchmark-enable --benchmark-columns=min,median,max,rounds

The rate is the number of samples divided by the median time; rates are printed under `extra_info` with
--benchmark-json. Threads: all cores, one block of samples each.
"""

import pytest

from physflow.data.darcy import generate

SAMPLES = 4096


@pytest.mark.parametrize("modes", [16, 64, None], ids=["16", "64", "full"])
@pytest.mark.parametrize("std", [1.0, 2.0])
def test_generate_64(benchmark, modes, std):
    generate(64, resolution=64, modes=modes, std=std)  # The modes are found once.
    ds = benchmark.pedantic(
        generate, (SAMPLES,), {"resolution": 64, "modes": modes, "std": std}, rounds=3, warmup_rounds=1
    )
    assert ds.sizes["sample"] == SAMPLES
    if benchmark.stats is not None:
        benchmark.extra_info["samples_per_second"] = SAMPLES / benchmark.stats.stats.median
