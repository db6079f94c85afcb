"""Labels, predictions and reads as a site would bring them, of known answers; made without our own functions."""

from pathlib import Path

import numpy as np
import pandas as pd

CUT = 0.15
PUBLISHED = {"tp": 562, "fn": 57, "fp": 86, "tn": 1183}  # of 1,888 films, Nat Commun 2021;12:1066
DISCORDANT = {  # reader -> (lost, gained) among 60 fractures, then among 60 others
    "anna": ((4, 15), (3, 3)),
    "ben": ((0, 5), (2, 0)),
    "cem": ((10, 18), (0, 0)),
}
SEED = 20210216


def published_films(folder: Path) -> tuple[Path, Path]:
    """1,888 films of one class with the published counts at 0.15; one patient in five has a second film."""
    rng = np.random.default_rng(SEED)
    n = sum(PUBLISHED.values())
    fracture = np.repeat([True, True, False, False], list(PUBLISHED.values()))
    called = np.repeat([True, False, True, False], list(PUBLISHED.values()))
    high = np.where(fracture, rng.beta(6, 1.5, n), rng.beta(1.2, 3, n))
    low = np.where(fracture, rng.beta(2, 1, n), rng.beta(1, 4, n))
    # three digits: ties, also at the threshold itself
    p = np.where(called, CUT + (1 - CUT) * high, (CUT - 0.001) * low).round(3)
    order = rng.permutation(n)
    patient = np.where(np.arange(n) % 5 == 4, np.arange(n) - 1, np.arange(n))
    labels = pd.DataFrame(
        {
            "case_id": [f"film{i}" for i in range(n)],
            "patient_id": [f"pt{i}" for i in patient],
            "y_class": np.where(fracture[order], "fracture", "N"),
            "sex": rng.choice(["F", "M"], n),
            "age": rng.integers(18, 99, n),
        }
    )
    predictions = pd.DataFrame({"case_id": labels.case_id, "model_id": "pelvix", "p_fracture": p[order]})
    return _written(folder, labels, predictions.sample(frac=1, random_state=1))


def four_classes(folder: Path, films: int, *, boxes: bool = True, seed: int = 1) -> tuple[Path, Path]:
    """Films with four classes, scores and boxes, two for each patient, a third of them validation."""
    rng = np.random.default_rng(seed)
    names = np.array(["DF", "VF", "SF", "UF", "N"])
    truth = rng.choice(5, films, p=[0.18, 0.09, 0.13, 0.12, 0.48])
    patient = np.arange(films) // 2
    scores = rng.beta(1.2, 8, (films, 4))
    ill = np.flatnonzero(truth < 4)
    scores[ill, truth[ill]] = rng.beta(5, 2, len(ill))
    scores = scores.round(4)
    corner = np.c_[rng.integers(50, 500, films), rng.integers(50, 500, films)]
    side = rng.integers(80, 300, (films, 2))
    box = np.c_[corner, corner + side]
    labels = pd.DataFrame(
        {
            "case_id": [f"c{i}" for i in range(films)],
            "patient_id": [f"p{i}" for i in patient],
            "y_class": names[truth],
            "split": np.where(patient % 3 == 0, "validation", "test"),
            "sex": np.where(patient % 2, "F", "M"),
            "age": 40 + patient % 55,
            "site": np.where(patient % 7 < 3, "north", "south"),
            "rows": 1024,
            "columns": 1024,
        }
    )
    predictions = pd.DataFrame({"case_id": labels.case_id, "model_id": "m", "model_version": "2"})
    if boxes:
        labels["boxes"] = [
            f"[[{','.join(map(str, b))}]]" if t < 4 else "" for b, t in zip(box, truth, strict=True)
        ]
        moved = np.round(box + rng.normal(0, 12, (films, 4)), 1)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 5)
        found = []
        for i in range(films):
            marks = []
            for k in range(4):
                if scores[i, k] >= 0.05:
                    xyxy = moved[i] if truth[i] == k else moved[i] + 7 * k
                    corners = ",".join(f"{x:.1f}" for x in xyxy)
                    marks.append(f'{{"xyxy":[{corners}],"class":"{names[k]}","score":{scores[i, k]}}}')
            found.append(f"[{','.join(marks)}]")
        predictions["boxes"] = found
    else:
        for k in range(4):
            predictions[f"p_{names[k]}"] = scores[:, k]
    return _written(folder, labels, predictions)


def reader_study(folder: Path) -> tuple[Path, Path, Path]:
    """120 films, half with a fracture, read by three readers without and with AI, with DISCORDANT pairs."""
    rng = np.random.default_rng(SEED)
    n = 120
    fracture = np.arange(n) % 2 == 0
    labels = pd.DataFrame(
        {
            "case_id": [f"c{i}" for i in range(n)],
            "patient_id": [f"p{i}" for i in range(n)],
            "y_class": np.where(fracture, "fracture", "N"),
        }
    )
    p = np.clip(np.where(fracture, 0.7, 0.2) + rng.normal(0, 0.2, n), 0.01, 0.99).round(2)
    predictions = pd.DataFrame({"case_id": labels.case_id, "model_id": "m", "p_fracture": p})
    rows = []
    for reader, pairs in DISCORDANT.items():
        for side, (lost, gained) in zip((True, False), pairs, strict=True):
            cases = np.flatnonzero(fracture == side)
            before = np.ones(len(cases), bool)
            before[lost : lost + gained + 7] = False  # 7 wrong in both
            after = before.copy()
            after[:lost], after[lost : lost + gained] = False, True
            for condition, right, phase in (("no_ai", before, "1"), ("ai", after, "2")):
                for place, (case, ok) in enumerate(zip(cases, right, strict=True)):
                    says = "fracture" if ok == side else "N"
                    seconds = 20 + (case * 7 + len(reader)) % 31 - 3 * (condition == "ai")
                    rows.append((f"c{case}", reader, condition, phase, place, says, seconds))
    columns = ["case_id", "reader_id", "condition", "phase", "order", "y_read", "seconds"]
    reads = folder / "reads.csv"
    pd.DataFrame(rows, columns=columns).to_csv(reads, index=False)
    return (*_written(folder, labels, predictions), reads)


def _written(folder: Path, labels: pd.DataFrame, predictions: pd.DataFrame) -> tuple[Path, Path]:
    paths = folder / "labels.csv", folder / "predictions.csv"
    for table, path in zip((labels, predictions), paths, strict=True):
        table.to_csv(path, index=False)
    return paths
