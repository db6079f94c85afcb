"""What the four reference papers print, as they print it, and tools to hold it against arithmetic. Pure.

Numbers are texts with the digits of the paper: "0.8" and "0.80" do not say the same.
"""

from fractions import Fraction

from statsmodels.stats.proportion import proportion_confint

from hipnode.evaluation.statistics.counts import Counts, rounds_to

BJJ2025 = "Bone Joint J 2025;107-B:213-220"
BATH2022 = "Sci Rep 2022;12:2058"
PELVIXNET2021 = "Nat Commun 2021;12:1066"
WRIST2018 = "Clin Radiol 2018;73:439-445"

# Bone Joint J 2025, table II, internal test part: accuracy, sensitivity, specificity, IoU, Dice
TABLE_II = {
    "DF": ("1.0", "0.79", "1.0", "0.70", "0.82"),
    "VF": ("1.0", "0.80", "1.0", "0.70", "0.82"),
    "SF": ("0.99", "0.95", "0.99", "0.83", "0.89"),
    "UF": ("1.0", "0.98", "0.99", "0.86", "0.92"),
}
INTERNAL_FRACTURES = {"DF": 1410, "VF": 720, "SF": 1044, "UF": 984}  # all parts together, baseline table

TEST_FRACTURES = 463  # of the flow chart

# Bone Joint J 2025, table III, external films: (sensitivity, specificity) of surgeons A, B, C with AI
SURGEONS = ("A", "B", "C")
TABLE_III = {
    "DF": (("0.88", "0.90"), ("0.75", "0.95"), ("0.86", "0.96")),
    "VF": (("0.80", "0.95"), ("0.93", "0.85"), ("0.94", "0.91")),
    "SF": (("0.84", "0.94"), ("0.89", "0.94"), ("0.92", "0.96")),
    "UF": (("0.86", "0.98"), ("0.80", "0.99"), ("0.89", "0.99")),
    "Micro": (("0.83", "0.96"), ("0.78", "0.95"), ("0.87", "0.97")),
    "Macro": (("0.68", "0.95"), ("0.68", "0.94"), ("0.72", "0.97")),
}
TABLE_III_MEAN = {
    "DF": ("0.83", "0.94"), "VF": ("0.89", "0.90"), "SF": ("0.88", "0.95"), "UF": ("0.85", "0.99"),
    "Micro": ("0.83 (SD 0.05)", "0.96 (SD 0.01)"), "Macro": ("0.69 (SD 0.02)", "0.95 (SD 0.02)"),
}  # fmt: skip
EXTERNAL_FRACTURES = {"DF": 91, "VF": 173, "SF": 37, "UF": 40}

# Sci Rep 2022, text: crops, classes and the hospital's own diagnoses
JACCARD = {"mean": "0.87 (SD 0.06)", "half": "1.00", "seven": "0.98"}
ACCURACY_BATH, KAPPA_BATH, HOSPITAL_BATH = "0.92", "0.87 (0.84-0.90)", "0.775"
AUC_BATH = {"no fracture": "0.98", "trochanteric": "0.99", "intracapsular": "0.97"}

# Nat Commun 2021: counts at 0.15 from the authors' public table of 1,888 films (github.com/atong89130/PelviXNet)
PELVIXNET_CUT = 0.15
PELVIXNET_COUNTS = Counts(tp=562, fn=57, fp=86, tn=1183)
PELVIXNET = {
    "accuracy": "0.924 (0.912-0.936)", "sensitivity": "0.908 (0.885-0.908)", "specificity": "0.932 (0.919-0.946)",
    "auc": "0.973 (0.960-0.983)", "ap": "0.963 (0.948-0.974)",
}  # fmt: skip
PELVIXNET_FOUND = {  # detected, all
    "hip fracture": (368, 390), "intracapsular": (168, 184), "extracapsular": (201, 207), "pelvic": (124, 147),
    "femoral shaft": (25, 30), "dislocation": (47, 51), "periprosthetic": (24, 29),
}  # fmt: skip

# Clin Radiol 2018: 50 films with and 50 without a fracture
WRIST_COUNTS = Counts(tp=45, fn=5, fp=6, tn=44)
WRIST = {"sensitivity": "0.90", "specificity": "0.88", "auc": "0.954"}

Range = tuple[Fraction, Fraction]


def dice_range(iou: str) -> Range:
    """What Dice can be for one pair of masks whose IoU prints as this text: 2 IoU / (1 + IoU)."""
    low, high = rounds_to(iou)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def meets(found: Range, printed: str) -> bool:
    """Whether a range shares a number with all that rounds to a printed text."""
    low, high = rounds_to(printed)
    return found[0] <= high and low <= found[1]


def between(found: Range, digits: int = 3) -> str:
    """A range in words: "0.855 to 0.865"; one number where both ends print alike."""
    low, high = (f"{float(end):.{digits}f}" for end in found)
    return low if low == high else f"{low} to {high}"


def wald(successes: int, n: int) -> tuple[float, float] | None:
    """The limits p +- z sqrt(p(1-p)/n), for replicating a paper only: too narrow near 0 and 1. None for n = 0."""
    if not n:
        return None
    low, high = proportion_confint(successes, n, alpha=0.05, method="normal")
    return float(low), float(high)
