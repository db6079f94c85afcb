"""Training, validation and test parts that share no patient.

Parts come from the data (subfolders, or a column `split`), or are drawn: by patient, seeded, stratified.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from workers.training.folders import SPLITS, Unlabelled, read_folder
from workers.training.samples import DataError, Sample

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}  # as published (Bone Joint J 2025;107-B:213)
FOLDERS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
Parts = dict[str, list[Sample]]


class LeakingSplit(DataError):
    """A patient, or the same picture, is in two parts; the text names them in the data's own terms."""


def read_parts(
    folder: Path,
    class_names: Sequence[str],
    *,
    seed: int,
    unlabelled: Unlabelled = "refuse",
) -> Parts:
    """The parts of a folder: its subfolders train, validation (or val, valid) and test; or the samples'
    own `split`; or drawn by patient.

    Raises DataError, and LeakingSplit where a patient is in two parts.
    """
    parts: Parts = {}
    subfolders = {
        part: [folder / name for name in names if (folder / name).is_dir()] for part, names in FOLDERS.items()
    }
    if subfolders["train"] and (subfolders["validation"] or subfolders["test"]):
        problems = []
        for part, folders in subfolders.items():
            for each in folders:
                try:
                    parts.setdefault(part, []).extend(read_folder(each, class_names, unlabelled))
                except DataError as error:
                    problems.append(f"in {each}:\n{error}")
        if problems:
            raise DataError("\n".join(problems))
    else:
        samples = read_folder(folder, class_names, unlabelled)
        given = [s for s in samples if s.split]
        if given and len(given) < len(samples):
            raise DataError(
                f"{len(samples) - len(given)} of {len(samples)} pictures have no split, the first is "
                f"{next(s.path.name for s in samples if not s.split)}; name a split for all or for none"
            )
        if not given:
            return split_by_patient(samples, class_names, seed)
        for sample in samples:
            parts.setdefault(sample.split, []).append(sample)
    if not parts.get("train"):
        raise DataError(f"{folder} has no picture in the part train")
    refuse_leaks(parts)
    return parts


def refuse_leaks(parts: Mapping[str, Sequence[Sample]]) -> None:
    """Raise LeakingSplit where a patient, or one file's bytes, is in more than one part."""
    patients: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    files: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for part, samples in parts.items():
        for sample in samples:
            patients[sample.owner][part].append(sample.path.name)
            if sample.sha256:
                files[sample.sha256][part].append(sample.path.name)

    def told(homes: Mapping[str, Sequence[str]]) -> str:
        return "; ".join(f"{part}: {', '.join(names)}" for part, names in homes.items())

    lines = [f"patient {who} is in {told(homes)}" for who, homes in patients.items() if len(homes) > 1]
    lines += [f"the same picture is in {told(homes)}" for homes in files.values() if len(homes) > 1]
    if lines:
        raise LeakingSplit(
            "The parts leak: what is trained on would be tested on.\n" + "\n".join(sorted(lines))
        )


def split_by_patient(
    samples: Sequence[Sample],
    class_names: Sequence[str],
    seed: int,
    shares: Mapping[str, float] = SHARES,
) -> Parts:
    """Draw the parts: each patient goes whole into one, and each class has about the same share in all.

    A patient counts as the rarest class any of their pictures has. The same samples and seed give the same
    parts, in whatever order they come.
    """
    owned: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda s: str(s.path)):
        owned[sample.owner].append(sample)
    often: dict[str, int] = defaultdict(int)
    for sample in samples:
        often[sample.class_name(class_names)] += 1
    strata: dict[str, list[str]] = defaultdict(list)
    for owner, theirs in sorted(owned.items()):
        rarest = min((s.class_name(class_names) for s in theirs), key=lambda name: (often[name], name))
        strata[rarest].append(owner)
    parts: Parts = {part: [] for part in SPLITS if part in shares}
    for at, (_, owners) in enumerate(sorted(strata.items())):
        order = np.random.default_rng([seed, at]).permutation(len(owners))
        for place, part in zip(order, _allotted(len(owners), shares), strict=True):
            parts[part] += owned[owners[place]]
    return parts


def _allotted(count: int, shares: Mapping[str, float]) -> list[str]:
    """The part of each of `count` patients: whole numbers nearest the shares, and one each where there are enough."""
    exact = {part: count * share for part, share in shares.items()}
    number = {part: int(value) for part, value in exact.items()}
    for part in sorted(exact, key=lambda p: number[p] - exact[p])[: count - sum(number.values())]:
        number[part] += 1
    for part in number:
        most = max(number, key=lambda p: number[p])
        if not number[part] and number[most] > 1 and count >= len(number):
            number[part], number[most] = 1, number[most] - 1
    return [part for part, n in number.items() for _ in range(n)]


def data_hash(samples: Sequence[Sample]) -> str:
    """SHA-256 over names, pictures' hashes, boxes and classes: changes when any of them does."""
    digest = hashlib.sha256()
    for sample in sorted(samples, key=lambda s: str(s.path)):
        line = [sample.path.name, sample.sha256, sample.boxes.tolist(), sample.labels.tolist()]
        digest.update(json.dumps(line).encode() + b"\n")
    return digest.hexdigest()
