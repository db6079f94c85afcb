"""Patients dealt to parts: none in two, the same for a seed, the classes spread evenly."""

from collections import Counter

import pytest

from hipnode.evaluation.splitting import SplitRefused, deal, folds

PATIENTS = [f"p{i // 2}" for i in range(400)]  # two hips each
OUTCOMES = ["DF" if i % 10 == 0 else "VF" if i % 40 == 1 else "N" for i in range(400)]
SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}


@pytest.mark.parametrize(
    ("patients", "shares", "says"),
    [
        ([], SHARES, "0 patients cannot make 3 parts"),
        (["a", "a", "b"], SHARES, "2 patients cannot make 3 parts"),
        (["a", "b"], {"test": 0.5, "validation": 0.4}, "add up to 1, not to 0.9"),
        (["a", "b"], {"test": 1.0, "validation": 0.0}, "above 0"),
    ],
)
def test_what_cannot_be_split_is_refused(patients, shares, says):
    with pytest.raises(SplitRefused, match=says):
        deal(patients, ["N"] * len(patients), shares, seed=1)


def test_every_part_gets_its_share_of_patients_and_of_each_class():
    home = deal(PATIENTS, OUTCOMES, SHARES, seed=3)
    assert Counter(home.values()) == {"train": 120, "validation": 30, "test": 50}
    fractured = Counter(home[p] for p, y in zip(PATIENTS, OUTCOMES, strict=True) if y == "DF")
    assert all(abs(fractured[part] - 40 * share) <= 1 for part, share in SHARES.items())


def test_the_order_of_rows_does_not_matter_and_the_seed_does():
    home = deal(PATIENTS, OUTCOMES, SHARES, seed=3)
    assert deal(PATIENTS[::-1], OUTCOMES[::-1], SHARES, seed=3) == home
    assert deal(PATIENTS, OUTCOMES, SHARES, seed=4) != home


def test_folds_keep_the_hips_of_a_patient_together():
    fold = folds(PATIENTS, OUTCOMES, 5, seed=1)
    assert all(fold[i] == fold[i + 1] for i in range(0, 400, 2))
    assert Counter(fold) == dict.fromkeys(range(5), 80)
