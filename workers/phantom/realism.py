"""Statistics of a film that do not need its truth, and what they are on real pelvis films.

Pictures are grey 0..1, bone bright, about 1024 columns wide. Reference values: 34 public AP pelvis films
(PelviXNet, MIT licence), medians and 10th and 90th percentiles, measured with these functions.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float64]
#: median, 10th and 90th percentile over the films, measured with statistics_of on all 34
FILMS: dict[str, tuple[float, float, float]] = {
    "body p1": (0.09412, 0.08627, 0.1204),
    "body p50": (0.3804, 0.3451, 0.4541),
    "body p99": (0.6784, 0.6118, 0.8067),
    "range": (0.451, 0.4051, 0.5741),
    "body SD": (0.135, 0.1202, 0.1755),
    "entropy": (7.174, 6.983, 7.409),
    "black pixels": (0.02131, 0.0001786, 0.1021),
    "white pixels": (0.0, 0.0, 0.0),
    "slope 0.02-0.12": (-3.125, -3.325, -2.69),
    "slope 0.12-0.30": (-1.559, -2.216, -1.078),
    "slope 0.30-0.48": (-0.68, -1.003, -0.4215),
    "fine power share": (0.0924, 0.04997, 0.1734),
    "noise SD": (0.01744, 0.0125, 0.01744),
    "noise / range": (0.03581, 0.02468, 0.04224),
    "noise slope": (1.167, 0.954, 1.414),
    "gradient p50": (0.01204, 0.009938, 0.01588),
    "gradient p90": (0.03514, 0.02855, 0.04486),
    "gradient p99": (0.08845, 0.06625, 0.1113),
    "gradient p99 / p50": (6.938, 5.855, 8.262),
    "kurtosis 1 px": (10.83, 7.882, 28.93),
    "kurtosis 2 px": (11.55, 8.246, 22.82),
    "kurtosis 4 px": (7.403, 5.491, 10.85),
    "derivative RMS 2 over 1": (0.7128, 0.6934, 0.7332),
    "derivative RMS 4 over 1": (0.462, 0.4384, 0.4847),
    "local SD 1.6% p50": (0.06076, 0.05052, 0.07624),
    "local SD 1.6% p90": (0.1297, 0.1023, 0.1515),
    "local SD 4.8% p50": (0.1017, 0.08565, 0.1266),
    "local SD 4.8% p90": (0.1918, 0.1585, 0.2196),
    "coarse range": (0.7565, 0.6844, 0.8292),
}


def statistics_of(picture: Picture) -> dict[str, float]:
    """The statistics of one film, by name. picture (rows, columns) 0..1; its margin of 1 % is cut."""
    cut = max(4, picture.shape[1] // 85)
    picture = picture[cut:-cut, cut:-cut]
    inside = body_of(picture)
    grey = picture[inside]
    p1, p5, p50, p95, p99 = (float(v) for v in np.percentile(grey, [1, 5, 50, 95, 99]))
    span = max(p95 - p5, 1e-3)
    out = {"body p1": p1, "body p50": p50, "body p99": p99, "range": span, "body SD": float(grey.std())}
    out["entropy"] = _entropy(picture)
    out["black pixels"] = float((picture < 0.04).mean())
    out["white pixels"] = float((picture > 0.96).mean())
    out.update(_spectrum(picture))
    out.update(_noise(picture, span))
    out.update(_gradients(picture, inside, span))
    for share in (0.016, 0.048):
        local = _local_sd(picture, round(share * picture.shape[1]))[inside] / span
        out[f"local SD {share:.1%} p50"] = float(np.median(local))
        out[f"local SD {share:.1%} p90"] = float(np.percentile(local, 90))
    coarse = smooth(picture, 0.064 * picture.shape[1])[inside]
    low, high = np.percentile(coarse, [5, 95])
    out["coarse range"] = float(high - low) / span
    return out


def body_of(picture: Picture) -> NDArray[np.bool_]:
    """Pixels of the body: brighter than the air around it, after a light blur."""
    soft = smooth(picture, picture.shape[1] / 256.0)
    found: NDArray[np.bool_] = soft > 0.08
    return found if found.mean() > 0.2 else np.ones_like(found)


def smooth(picture: Picture, sigma: float) -> Picture:
    """Gaussian blur, edges repeated; wide ones as three box filters (central limit)."""
    if sigma < 4.0:
        reach = max(1, math.ceil(3.5 * sigma))
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        taps /= taps.sum()
        for axis in (0, 1):
            pads = [(reach, reach) if a == axis else (0, 0) for a in (0, 1)]
            wide = np.pad(picture, pads, mode="edge")
            size = picture.shape[axis]
            total = np.zeros_like(picture)
            for k, t in enumerate(taps):
                total += t * (wide[k : k + size] if axis == 0 else wide[:, k : k + size])
            picture = total
        return picture
    size = max(1, round(math.sqrt(12 * sigma * sigma / 3 + 1)) // 2)
    for _ in range(3):
        picture = _box(picture, size)
    return picture


def _box(picture: Picture, reach: int) -> Picture:
    """Mean over (2 reach + 1) squared pixels, edges repeated."""
    for axis in (0, 1):
        pads = [(reach + 1, reach) if a == axis else (0, 0) for a in (0, 1)]
        total = np.cumsum(np.pad(picture, pads, mode="edge"), axis)
        size = picture.shape[axis]
        last = 2 * reach + 1
        if axis == 0:
            picture = (total[last : last + size] - total[:size]) / last
        else:
            picture = (total[:, last : last + size] - total[:, :size]) / last
    return picture


def _entropy(picture: Picture) -> float:
    counts = np.bincount((picture * 255.0 + 0.5).astype(int).clip(0, 255).ravel(), minlength=256)
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def _spectrum(picture: Picture) -> dict[str, float]:
    """Radial spectrum of two hip patches: slopes of log power against log frequency, and the fine share."""
    rows, columns = picture.shape
    side = columns // 4
    top = min(rows - side, round(0.52 * rows) - side // 4)
    window = np.outer(np.hanning(side), np.hanning(side))
    fy, fx = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    radius = np.hypot(fy, fx)
    power = np.zeros_like(radius)
    for left in (round(0.14 * columns), columns - side - round(0.14 * columns)):
        patch = picture[top : top + side, left : left + side]
        power += np.abs(np.fft.rfft2((patch - patch.mean()) * window)) ** 2
    edges = np.linspace(0.0, 0.5, 65)
    which = np.digitize(radius.ravel(), edges) - 1
    total = np.bincount(which, power.ravel(), 66)[:64]
    count = np.bincount(which, minlength=66)[:64]
    mean, middle = total / np.maximum(count, 1), 0.5 * (edges[1:] + edges[:-1])
    out = {}
    for low, high in ((0.02, 0.12), (0.12, 0.30), (0.30, 0.48)):
        part = (middle >= low) & (middle <= high)
        out[f"slope {low:.2f}-{high:.2f}"] = float(
            np.polyfit(np.log(middle[part]), np.log(mean[part] + 1e-12), 1)[0]
        )
    fine, base = mean[middle > 0.35].mean(), mean[(middle > 0.08) & (middle < 0.12)].mean()
    out["fine power share"] = float(fine / max(base, 1e-12))
    return out


def _noise(picture: Picture, span: float) -> dict[str, float]:
    """SD of the grain: finest diagonal Haar coefficient, median absolute deviation; its growth with grey."""
    rows, columns = (n // 2 * 2 for n in picture.shape)
    a, b = picture[0:rows:2, 0:columns:2], picture[0:rows:2, 1:columns:2]
    c, d = picture[1:rows:2, 0:columns:2], picture[1:rows:2, 1:columns:2]
    detail, grey = (a - b - c + d) / 2.0, (a + b + c + d) / 4.0
    inside = grey > 0.08
    sd = float(np.median(np.abs(detail[inside])) / 0.6745)
    levels = np.percentile(grey[inside], np.linspace(5, 95, 10))
    points = []
    for low, high in itertools.pairwise(levels):
        part = inside & (grey >= low) & (grey < high)
        if part.sum() > 200:
            spread = np.median(np.abs(detail[part])) / 0.6745
            points.append((math.log(0.5 * (low + high)), math.log(max(spread, 1e-4))))
    slope = (
        float(np.polyfit([p[0] for p in points], [p[1] for p in points], 1)[0]) if len(points) > 3 else 0.0
    )
    return {"noise SD": sd, "noise / range": sd / span, "noise slope": slope}


def _gradients(picture: Picture, inside: NDArray[np.bool_], span: float) -> dict[str, float]:
    """Size of the gradient at 1 px, kurtosis and RMS of the derivative at 1, 2 and 4 px."""
    out: dict[str, float] = {}
    rms = []
    for sigma in (1.0, 2.0, 4.0):
        soft = smooth(picture, sigma)
        dy, dx = np.gradient(soft, axis=0), np.gradient(soft, axis=1)
        if sigma == 1.0:
            size = np.hypot(dx, dy)[inside] / span
            p50, p90, p99 = (float(v) for v in np.percentile(size, [50, 90, 99]))
            out.update(
                {
                    "gradient p50": p50,
                    "gradient p90": p90,
                    "gradient p99": p99,
                    "gradient p99 / p50": p99 / p50,
                }
            )
        values = np.concatenate([dx[inside], dy[inside]])
        values = values - values.mean()
        variance = float((values**2).mean())
        out[f"kurtosis {sigma:.0f} px"] = float((values**4).mean()) / variance**2 - 3.0
        rms.append(math.sqrt(variance))
    out["derivative RMS 2 over 1"], out["derivative RMS 4 over 1"] = rms[1] / rms[0], rms[2] / rms[0]
    return out


def _local_sd(picture: Picture, width: int) -> Picture:
    reach = max(1, width // 2)
    mean = _box(picture, reach)
    root: Picture = np.sqrt(np.maximum(_box(picture**2, reach) - mean**2, 0.0))
    return root


def summary(rows: Sequence[dict[str, float]]) -> dict[str, tuple[float, float, float, float, float]]:
    """5th, 10th, 50th, 90th and 95th percentile of each statistic over films."""
    return {
        name: tuple(float(v) for v in np.percentile([row[name] for row in rows], [5, 10, 50, 90, 95]))  # type: ignore[misc]
        for name in rows[0]
    }


@dataclass(frozen=True)
class Comparison:
    """One statistic of phantoms beside the films'; `verdict` is "", "amber" or "red".

    red: the films' median lies outside the phantoms' 5th to 95th percentile. amber: the phantoms' 10th to 90th
    percentile is narrower than the films'.
    """

    name: str
    film: tuple[float, float, float]
    phantom: tuple[float, float, float]
    verdict: str


def compare(rows: Sequence[dict[str, float]]) -> list[Comparison]:
    """Statistics of phantoms (statistics_of for each) beside those of the films, in the order of FILMS."""
    out = []
    for name, (p5, p10, p50, p90, p95) in summary(rows).items():
        film = FILMS[name]
        verdict = "amber" if p90 - p10 < film[2] - film[1] else ""
        if not p5 <= film[0] <= p95:
            verdict = "red"
        out.append(Comparison(name, film, (p50, p10, p90), verdict))
    return out


def as_markdown(lines: Sequence[Comparison]) -> str:
    """The comparison as a table."""
    head = [
        "| statistic, at 1024 columns | films: median [10 %, 90 %] | phantoms | |",
        "| --- | --- | --- | --- |",
    ]
    body = [
        f"| {c.name} | {c.film[0]:.3g} [{c.film[1]:.3g}, {c.film[2]:.3g}] "
        f"| {c.phantom[0]:.3g} [{c.phantom[1]:.3g}, {c.phantom[2]:.3g}] | {c.verdict} |"
        for c in lines
    ]
    return "\n".join([*head, *body])
