"""How much of each material every ray passes: the sum of all that lies on the table."""

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.phantom.rays import Geometry, Slab

MATERIALS = ("cortical", "marrow", "muscle", "fat", "titanium", "steel")


@dataclass(frozen=True, eq=False)
class Layers:
    """Path lengths, (materials, rows, columns) mm, in the order of MATERIALS. Filled in place."""

    mm: Tensor

    @classmethod
    def empty(cls, geometry: Geometry) -> "Layers":
        """Nothing in the beam."""
        return cls(torch.zeros(len(MATERIALS), geometry.rows, geometry.columns))

    def __getitem__(self, material: str) -> Tensor:
        """The map of one material, (rows, columns), a view."""
        return self.mm[MATERIALS.index(material)]

    def add_bone(self, slab: Slab, whole: Tensor, inner: Tensor, fraction: Tensor) -> None:
        """A bone in a window: `whole` mm of which `inner` is spongiosa with this bone volume fraction.

        Bone takes the place of muscle.
        """
        spongy = torch.minimum(inner, whole)
        solid = whole - spongy + spongy * fraction
        slab.add_to(self["cortical"], solid)
        slab.add_to(self["marrow"], whole - solid)
        slab.add_to(self["muscle"], -whole)
