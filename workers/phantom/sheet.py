"""A contact sheet of phantoms, and how they measure beside real films: `python -m workers.phantom.sheet`.

With HIPNODE_FILMS set to a folder of real AP pelvis films (PNG), a second sheet shows films and phantoms in
turns. It is made from patients' films and stays out of any repository: it lies in the system's folder for
temporary files unless --beside names another place.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.phantom import DOMAIN_GAP
from workers.phantom.dataset import prepare_process
from workers.phantom.realism import as_markdown, compare, statistics_of

SEED = 88
Gray = NDArray[np.uint8]


def tiled(pictures: Sequence[Gray], across: int, width: int) -> Image.Image:
    """Pictures of any size in rows of `across`, each `width` pixels wide."""
    tiles = [Image.fromarray(p) for p in pictures]
    tiles = [t.resize((width, round(t.height * width / t.width)), Image.Resampling.LANCZOS) for t in tiles]
    rows = [tiles[k : k + across] for k in range(0, len(tiles), across)]
    heights = [max(t.height for t in row) for row in rows]
    sheet = Image.new("L", (across * width, sum(heights)))
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for k, tile in enumerate(row):
            sheet.paste(tile, (k * width, top))
        top += height
    return sheet


def _make(index: int, view: str, columns: int) -> Gray:
    from workers.phantom.film import generate

    return generate(
        SEED, index, columns=columns, view="pelvis_ap" if view == "pelvis_ap" else "hip_ap"
    ).pixels


def _measured(index: int) -> dict[str, float]:
    return statistics_of(_make(index, "pelvis_ap", 1024) / 255.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the sheets and print the table."""
    parser = argparse.ArgumentParser(description="Contact sheet and realism table of phantoms.")
    parser.add_argument("--out", type=Path, required=True, help="JPEG of phantoms only")
    parser.add_argument("--beside", type=Path, help="JPEG of films and phantoms in turns, for HIPNODE_FILMS")
    parser.add_argument("--count", type=int, default=100, help="phantoms that are measured")
    options = parser.parse_args(arguments)
    with ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=prepare_process) as pool:
        pelves = list(pool.map(_make, range(8), ["pelvis_ap"] * 8, [1024] * 8))
        hips = list(pool.map(_make, range(8, 18), ["hip_ap"] * 10, [512] * 10))
        rows = list(pool.map(_measured, range(100, 100 + options.count)))
    upper, lower = tiled(pelves, 4, 300), tiled(hips, 10, 120)
    sheet = Image.new("L", (1200, upper.height + lower.height))
    sheet.paste(upper, (0, 0))
    sheet.paste(lower, (0, upper.height))
    sheet.save(options.out, quality=72, optimize=True)
    films = os.environ.get("HIPNODE_FILMS")
    found = sorted(Path(films).rglob("*.png")) if films else []
    if found:
        paths = found[:: max(1, len(found) // 8)][:8]
        beside = options.beside or Path(tempfile.gettempdir()) / "phantoms-beside-films.jpg"
        real = [np.asarray(Image.open(p).convert("L")) for p in paths]
        turns = [picture for pair in zip(real, pelves, strict=False) for picture in pair]
        tiled(turns, 4, 480).save(beside, quality=85)
        sys.stdout.write(f"Films and phantoms in turns: {beside}\n\n")
    sys.stdout.write(f"{as_markdown(compare(rows))}\n\n{options.count} phantoms. {DOMAIN_GAP}\n")


if __name__ == "__main__":
    main()
