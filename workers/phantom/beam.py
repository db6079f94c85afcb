"""The beam: attenuation, spectra, and what the detector makes of a thickness of materials.

Mass coefficients of ICRU-44 tissues and elements (NIST X-ray mass attenuation tables) times density give
1/cm at the energies below; between them log-log interpolation.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.phantom.filters import blur, normal
from workers.phantom.layers import MATERIALS
from workers.phantom.rays import Geometry

#: energies of TABLE, keV
ENERGIES = (20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0)
#: linear attenuation coefficients, 1/cm
TABLE: dict[str, tuple[float, ...]] = {
    "cortical": (7.68, 2.556, 1.278, 0.815, 0.604, 0.428, 0.356),
    "muscle": (0.862, 0.397, 0.282, 0.238, 0.215, 0.191, 0.178),
    "fat": (0.539, 0.291, 0.228, 0.202, 0.188, 0.171, 0.160),
    "marrow": (0.547, 0.295, 0.233, 0.207, 0.193, 0.176, 0.165),
    "water": (0.810, 0.376, 0.268, 0.227, 0.206, 0.184, 0.171),
    "titanium": (70.0, 22.0, 9.81, 5.38, 3.28, 1.79, 1.205),  # Ti-6Al-4V, 3.28 at 60 keV
    "steel": (248.0, 78.7, 34.9, 18.8, 11.6, 5.73, 3.58),  # iron's shape at CoCrMo's 11.6 at 60 keV
    "aluminium": (9.287, 3.044, 1.534, 0.9935, 0.7498, 0.5447, 0.4599),
}
EFFECTIVE_KEV = 55.0  #: behind 20 cm of patient at 80 kVp, 3 mm Al


def attenuation(material: str, energy_kev: float = EFFECTIVE_KEV) -> float:
    """Linear attenuation coefficient in 1/cm, 20 to 100 keV."""
    values = np.log(TABLE[material])
    return float(np.exp(np.interp(math.log(energy_kev), np.log(ENERGIES), values)))


@cache
def spectrum(kvp: float, filter_mm_al: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Photon energies (keV) and their shares behind the filter, 1 keV apart.

    Kramers' law for a thick tungsten target with self-absorption fitted to the mean energies of SpekPy
    spectra (12 degree anode), and the K lines of tungsten above 69.5 kVp.
    """
    energy = np.arange(15.0, kvp, 1.0) + 0.5
    photons = (kvp - energy) / energy * np.exp(-SELF_ABSORPTION * (30.0 / energy) ** 3)
    if kvp > 69.5:
        strength = 0.09 * (kvp / 69.5 - 1.0) ** 1.63 * photons.sum()
        for line, share in ((58.0, 0.30), (59.3, 0.52), (67.2, 0.18)):
            photons[int(line - 15.0)] += strength * share
    aluminium = np.array([attenuation("aluminium", max(e, 20.0)) * max(1.0, (20.0 / e) ** 3) for e in energy])
    photons *= np.exp(-0.1 * filter_mm_al * aluminium)
    return energy, photons / photons.sum()


SELF_ABSORPTION = 0.35


@dataclass(frozen=True)
class Beam:
    """Bins of a spectrum: shares of the detected signal without a patient, and 1/mm of each material."""

    shares: tuple[float, ...]
    mu: tuple[tuple[float, ...], ...]  #: one row for each bin, in the order of MATERIALS


def mono_beam(energy_kev: float = EFFECTIVE_KEV) -> Beam:
    """One energy: the documented approximation."""
    return Beam((1.0,), (tuple(0.1 * attenuation(m, energy_kev) for m in MATERIALS),))


def poly_beam(kvp: float, filter_mm_al: float, bins: int = 6) -> Beam:
    """`bins` energies of equal share of the signal behind 15 cm of muscle, energy-integrating detector.

    The detector weighs a photon with its energy times the absorption of 0.5 mm CsI (0.45 per mm at 60 keV,
    falling with the third power; the K edges at 33 and 36 keV are left out).
    """
    energy, photons = spectrum(kvp, filter_mm_al)
    detected = photons * energy * (1.0 - np.exp(-0.5 * 2.2 * (60.0 / energy) ** 2.7))
    muscle = np.array([attenuation("muscle", max(e, 20.0)) for e in energy])
    behind = detected * np.exp(-15.0 * muscle)
    edges = np.searchsorted(np.cumsum(behind) / behind.sum(), np.arange(1, bins) / bins)
    muscle_at = MATERIALS.index("muscle")
    rows, passed = [], []
    for part in np.split(np.arange(len(energy)), edges):
        weight = behind[part] / behind[part].sum()
        levels = np.maximum(energy[part], 20.0)
        row = tuple(
            0.1 * float(sum(w * attenuation(m, e) for w, e in zip(weight, levels, strict=True)))
            for m in MATERIALS
        )
        rows.append(row)
        # shares are such that each bin passes 15 cm of muscle as its photons do
        passed.append(float(behind[part].sum()) / math.exp(-150.0 * row[muscle_at]))
    total = sum(passed)
    return Beam(tuple(v / total for v in passed), tuple(rows))


def transmit(mm: Tensor, beam: Beam) -> Tensor:
    """Share of the signal that passes (materials, rows, columns) mm: the sum over bins of Beer-Lambert."""
    total = torch.zeros_like(mm[0])
    for share, mu in zip(beam.shares, beam.mu, strict=True):
        depth = mm[0] * -mu[0]
        for layer, value in zip(mm[1:], mu[1:], strict=True):
            depth.add_(layer, alpha=-value)
        total.add_(depth.exp_(), alpha=share)
    return total


@dataclass(frozen=True)
class Exposure:
    """How the detector sees the beam."""

    scatter_to_primary: float
    scatter_sigma_mm: float
    quanta: float  #: detected per pixel of 0.143 mm behind the middle of the field, after DQE
    focal_spot_mm: float
    mtf_sigma_mm: float  #: of the scintillator
    electronic: float  #: noise in quanta
    white_grain: float  #: share of the noise's variance that is not blurred
    motion_mm: float = 0.0  #: unsharpness of the patient and of resampling, SD; the noise has none of it


def expose(
    primary: Tensor, geometry: Geometry, exposure: Exposure, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """(signal, noise SD) in units of the mean primary in the middle; primary as transmit() gives it.

    Focal-spot and scintillator blur; scatter as a wide blur of the primary scaled to the scatter-to-primary
    ratio; quantum noise blurred as the signal is; electronic noise white.
    """
    rows, columns = primary.shape
    middle = primary[rows // 4 : 3 * rows // 4, columns // 4 : 3 * columns // 4]
    level = max(float(np.mean(middle.double().cpu().numpy())), 1e-9)  # torch's mean depends on the threads
    primary = (primary / level).clamp_max(40.0)
    mtf_px = exposure.mtf_sigma_mm / geometry.pitch_mm
    spot_px = 0.42 * exposure.focal_spot_mm * (geometry.magnification - 1.0) / geometry.pitch_mm
    scatter = blur(primary.clamp_max(8.0), exposure.scatter_sigma_mm / geometry.pitch_mm)
    signal = (
        blur(primary, math.hypot(mtf_px, spot_px, exposure.motion_mm / geometry.pitch_mm))
        + scatter * exposure.scatter_to_primary
    )
    signal = signal / (1.0 + exposure.scatter_to_primary)
    quanta = exposure.quanta * (geometry.pitch_mm / 0.143) ** 2
    deviation = torch.sqrt(signal / quanta + (exposure.electronic / quanta) ** 2)
    grain = normal(rng, rows, columns)
    if exposure.white_grain < 1.0:
        soft = blur(normal(rng, rows, columns), mtf_px)
        grain = grain * math.sqrt(exposure.white_grain) + soft * math.sqrt(1.0 - exposure.white_grain)
    return signal + deviation * grain, deviation
