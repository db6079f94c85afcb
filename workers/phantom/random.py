"""Named random streams: what one part draws never shifts what another part draws.

Every phantom is made from (seed, index). Each part of it (anatomy, pose, fracture, clutter,
noise...) has a stream of its own, so a fracture cannot leave a trace in the clutter, and the same
seed gives the same pixels whatever was generated before, beside or in how many threads.
"""

import zlib

import numpy as np


def stream(seed: int, index: int, name: str) -> np.random.Generator:
    """The random stream called `name` of phantom (seed, index)."""
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([seed, index, zlib.crc32(name.encode())]))
    )


def truncated_normal(rng: np.random.Generator, mean: float, sd: float, low: float, high: float) -> float:
    """One value of a normal distribution, redrawn until it lies in low..high."""
    for _ in range(1000):
        value = float(rng.normal(mean, sd))
        if low <= value <= high:
            return value
    raise ValueError(f"N({mean}, {sd}) never falls into {low}..{high}")
