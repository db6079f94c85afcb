"""Who lies on the table: the few facts that move everything else, and how the bones are placed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.phantom.fields import Coordinates
from workers.phantom.random import truncated_normal


@dataclass(frozen=True)
class Patient:
    """Sex, age, size and bone quality; lengths, cortices and spongiosa follow from them."""

    female: bool
    age_years: float
    size: float  #: factor on lengths, 1 for the mean of the sex
    quality: float  #: bone quality, 1 at 76 years; falls with age
    stout: float  #: build in standard deviations

    @property
    def old(self) -> float:
        """Age in standard deviations from 76 years."""
        return (self.age_years - 76.0) / 13.0


def draw_patient(rng: np.random.Generator) -> Patient:
    """A patient of a hip-fracture cohort: about 80 years old, mostly female; some much younger."""
    female = bool(rng.random() < 0.7)
    age = truncated_normal(rng, 76.0, 13.0, 25.0, 99.0)
    if rng.random() < 0.15:
        age = float(rng.uniform(25.0, 60.0))
    # one draw of bone quality moves all of it; tails reach the nearly invisible trochanters of real films
    quality = float(np.exp(rng.normal(-0.13 * (age - 76.0) / 13.0, 0.30)))
    return Patient(
        female, age, truncated_normal(rng, 1.0, 0.045, 0.88, 1.13), quality, float(rng.normal(0, 1))
    )


@dataclass(frozen=True)
class Place:
    """Where a left bone stands in the world; `side` -1 mirrors it into a right one.

    world = centre + turn @ (side x, y, z)
    """

    side: int
    centre: NDArray[np.float64]
    turn: NDArray[np.float64]

    def to_bone(self, p: Coordinates) -> Coordinates:
        """World coordinates to the left bone's own frame."""
        x, y, z = (v - float(c) for v, c in zip(p, self.centre, strict=True))
        r = self.turn
        return (
            (x * r[0, 0] + y * r[1, 0] + z * r[2, 0]) * self.side,
            x * r[0, 1] + y * r[1, 1] + z * r[2, 1],
            x * r[0, 2] + y * r[1, 2] + z * r[2, 2],
        )

    def to_world(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 3) of the left bone's frame to the world."""
        moved: NDArray[np.float64] = (points * [self.side, 1, 1]) @ self.turn.T + self.centre
        return moved
