"""The record of one evaluation: everything a report prints, as values with their counts. Pure.

`hipnode.evaluation.assemble.evaluate` makes it from tables. Nothing in it names a patient, and only the
list of errors and the reads exported for R name a case. All bootstrap intervals of one record come from the same
resamples of patients.
"""

from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from hipnode.decision import DecisionRule
from hipnode.evaluation.provenance import Provenance
from hipnode.evaluation.review import Reviewed
from hipnode.evaluation.statistics.calibration import Bin, CalibrationLine, Calibrator
from hipnode.evaluation.statistics.counts import ClassTable, Counts
from hipnode.evaluation.statistics.estimates import Estimate
from hipnode.evaluation.statistics.localisation import Froc, JaccardSummary, Overlap, PixelTable
from hipnode.evaluation.statistics.operating import TwoLevels
from hipnode.evaluation.statistics.reader_design import DesignCheck, RTable
from hipnode.evaluation.statistics.readers import Changes, McNemar, Metric, ReaderResult, ReadingTime, Spread
from hipnode.evaluation.statistics.roc import AreaComparison, RocCurve

ANY = "any"  # the question whether there is any fracture
ChosenOn = Literal["given", "package", "validation", "same cases", "convention"]
"""Where a threshold comes from. "same cases": chosen on the cases it is judged on, so that its numbers are
too good; "convention": there was no case to choose it on."""


@dataclass(frozen=True)
class SplitFacts:
    """What one part of the labels holds.

    name: test, validation, train, or "all" where the labels name no split
    positives: class -> units that have it, ANY among them; a unit may have several classes
    images: None where the labels do not name images
    """

    name: str
    units: int
    patients: int
    images: int | None
    positives: dict[str, int]


@dataclass(frozen=True)
class CaseFacts:
    """The cases of the evaluation.

    unit: hip, image or patient; what n counts in every table but those of lesions, pixels and reads
    judged: the part whose cases the numbers are about
    splits: all parts in the labels, judged among them
    several_classes: judged units with more than one class; they are no part of the single-label view
    """

    unit: str
    classes: tuple[str, ...]
    judged: SplitFacts
    splits: tuple[SplitFacts, ...]
    several_classes: int

    @property
    def clustered(self) -> bool:
        """Whether a patient has more than one judged unit, so that units are not independent."""
        return self.judged.patients < self.judged.units


@dataclass(frozen=True)
class Threshold:
    """The threshold from which one class counts as called. says: where it comes from, in a few words."""

    class_name: str
    value: float
    chosen_on: ChosenOn
    says: str

    @property
    def optimistic(self) -> bool:
        """Whether it was chosen on the cases it is judged on."""
        return self.chosen_on == "same cases"


@dataclass(frozen=True)
class Point:
    """A threshold judged on the cases, with its whole 2 x 2 table.

    rule: how the threshold was found, e.g. "Youden"; chosen_on: on which cases
    threshold: None for any fracture of several classes, where each class fires at its own
    estimates: accuracy, sensitivity, specificity, ppv, npv
    at_prevalence: (ppv, npv) at the prevalence that was given; None where none was
    """

    rule: str
    chosen_on: ChosenOn
    threshold: float | None
    counts: Counts
    estimates: dict[str, Estimate]
    at_prevalence: tuple[Estimate, Estimate] | None

    @property
    def youden(self) -> float | None:
        """Sensitivity plus specificity minus 1; None where one of them is undefined."""
        sensitivity, specificity = (self.estimates[name].value for name in ("sensitivity", "specificity"))
        return None if sensitivity is None or specificity is None else sensitivity + specificity - 1


@dataclass(frozen=True)
class Calibration:
    """How well the scores of one question mean what they say, before or after a calibrator.

    name: "as given", "temperature", "platt" or "isotonic"
    fitted_on: "validation"; "cross-fitted" where there is no validation part: five folds of patients of the
        judged cases, each calibrated by the four others; None for the scores as given
    calibrator: what was fitted, to be stored; None as given and cross-fitted
    says: why it does not exist; then all else is empty
    bins_width, bins_count: 10 and 15 bins, by their number; of equal width, of equal count
    """

    name: str
    fitted_on: str | None
    says: str
    calibrator: Calibrator | None
    ece: Estimate | None
    mce: float | None
    brier: Estimate | None
    log_loss: Estimate | None
    line: CalibrationLine | None
    bins_width: dict[int, tuple[Bin, ...]]
    bins_count: dict[int, tuple[Bin, ...]]


@dataclass(frozen=True, eq=False)
class Question:
    """One yes/no question and all that a score says about it: any fracture, or one class against the rest.

    name: ANY, or the class
    used: the thresholds in use; `points` are others: Youden, sensitivity 95 %, specificity 90 %, constants
    curve: ROC and precision-recall from the same counts; the score of any fracture is the best class's
    score_counts: (edges (21,), positives (20,), negatives (20,)) histogram of the scores over 0..1
    levels: the two-level display; None where levels_says tells why there is none
    calibration: as given first, then each method
    """

    name: str
    used: Point
    points: tuple[Point, ...]
    curve: RocCurve
    auc: Estimate
    average_precision: Estimate
    score_counts: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
    levels: TwoLevels | None
    levels_chosen_on: ChosenOn | None
    levels_says: str
    calibration: tuple[Calibration, ...]


@dataclass(frozen=True, eq=False)
class ClassPlaces:
    """Where the boxes of one class lie, or of all (ANY). Lesions are reference boxes.

    overlap: per detection, marks that fired, matched at IoU 0.5; n counts lesions
    pixels: box masks; n counts images or hips; None where the size of the images is not known
    ap50, ap50_95: COCO average precision over all candidates; None for ANY
    right_place, right_centre: share of lesions with the right class and IoU >= 0.5, or centre in the box
    """

    name: str
    lesions: int
    overlap: Overlap
    pixels: PixelTable | None
    ap50: Estimate | None
    ap50_95: Estimate | None
    right_place: Estimate
    right_centre: Estimate


@dataclass(frozen=True, eq=False)
class Localisation:
    """Whether the model looked at the right place.

    says: sentences on what is missing, and why (no boxes, no image sizes, units left out)
    units: judged units it is about: without those that have a class but no reference box
    classes: one per class, and ANY last (all classes together); empty without boxes
    froc_at: false marks per image -> sensitivity per lesion, with its interval
    jaccard: best overlap of any mark that fired with each reference box whatever its class; a miss is 0
    peaks: share of points with the heat map's peak within peak_radius_px; None without points or peaks
    """

    says: tuple[str, ...]
    units: int
    classes: tuple[ClassPlaces, ...]
    froc: Froc | None
    froc_at: dict[float, Estimate]
    jaccard: JaccardSummary | None
    peaks: Estimate | None
    peak_radius_px: float | None


@dataclass(frozen=True)
class StratumRow:
    """One stratum, one question.

    column, value: e.g. "age", "75-84"; question: ANY or a class
    n: units of the stratum; events: its positives
    overall_sensitivity, overall_specificity: of all judged units, None where undefined
    flagged: which of "sensitivity", "specificity" have an interval that excludes the overall value
    """

    column: str
    value: str
    question: str
    n: int
    events: int
    counts: Counts
    sensitivity: Estimate
    specificity: Estimate
    overall_sensitivity: float | None
    overall_specificity: float | None
    flagged: tuple[str, ...]


@dataclass(frozen=True)
class Strata:
    """All strata. says: columns that are no strata and why; intervals: how many were held against the overall
    value, of which about one in twenty excludes it by chance."""

    rows: tuple[StratumRow, ...]
    intervals: int
    says: tuple[str, ...]


@dataclass(frozen=True)
class Unread:
    """Judged units on which a model gave no answer; they are in no other number of the model.

    reasons: (reason, units, of them with any fracture), the most frequent first
    positives: class -> units, ANY among them
    sensitivity_of_all: any fracture, a fracture that was not read counted as missed
    """

    units: int
    positives: dict[str, int]
    reasons: tuple[tuple[str, int, int], ...]
    sensitivity_of_all: Estimate


@dataclass(frozen=True, eq=False)
class ModelResult:
    """All numbers of one model, over the judged units that it read.

    score_from: "p columns" or "boxes" (best box of each class after the rule's tau_min and NMS)
    rule: tau_min, NMS, valgus priority and the thresholds in use
    multi_label: K classes, a class is called from its own threshold
    single_label: K + 1 outcomes, N (no fracture) last, over the units with at most one class
    confusion: (K + 1, K + 1) units by reference (row) and call (column), outcomes in that order
    accuracy: of the single-label view
    runtime_ms: (first quartile, median, third quartile) of the predictions' run times; None where not given
    errors: the units that were missed, called falsely, called another class or not read, in the order of the labels
    """

    model_id: str
    version: str
    score_from: str
    rule: DecisionRule
    thresholds: tuple[Threshold, ...]
    any_fracture: Question
    classes: tuple[Question, ...]
    multi_label: ClassTable
    single_label: ClassTable
    outcomes: tuple[str, ...]
    confusion: NDArray[Any]
    accuracy: Estimate
    kappa: Estimate
    localisation: Localisation
    strata: Strata
    runtime_ms: tuple[float, float, float] | None
    errors: tuple[Reviewed, ...]
    unread: Unread

    @property
    def name(self) -> str:
        """Model and version as tables print it."""
        return f"{self.model_id} {self.version}".rstrip()

    @property
    def optimistic(self) -> bool:
        """Whether a threshold in use was chosen on the judged cases."""
        return any(t.optimistic for t in self.thresholds)


@dataclass(frozen=True)
class PairedDifference:
    """First model minus second on the same units: paired bootstrap of patients, and McNemar on units."""

    metric: Metric
    first: Estimate
    second: Estimate
    difference: Estimate
    mcnemar: McNemar


@dataclass(frozen=True)
class Comparison:
    """Two models on one question: areas by paired DeLong, sensitivity, specificity and accuracy in pairs."""

    first: str
    second: str
    question: str
    areas: AreaComparison
    differences: tuple[PairedDifference, ...]


@dataclass(frozen=True)
class ReaderDifference:
    """With AI minus without. reader: None for the mean of all (two-way bootstrap); mcnemar: None for it."""

    reader: str | None
    metric: Metric
    difference: Estimate
    mcnemar: McNemar | None


@dataclass(frozen=True)
class ReaderQuestion:
    """The readers on one question, ANY or a class. results: per reader and condition, as in `readers`."""

    name: str
    results: tuple[ReaderResult, ...]
    spreads: tuple[Spread, ...]
    differences: tuple[ReaderDifference, ...]
    changes: tuple[Changes, ...]


@dataclass(frozen=True)
class Kappa:
    """Agreement of two over all outcomes (K classes and N).

    kind: reader-reader, reader-reference, model-reference, intra-observer or fleiss (all readers)
    condition: no_ai or ai; None for the model
    """

    kind: str
    first: str
    second: str
    condition: str | None
    kappa: Estimate


@dataclass(frozen=True, eq=False)
class Readers:
    """The reader study. n counts reads of cases; cases and reads are those of the judged units.

    ai_model: whose answers count as the AI's
    tables: (reader, condition) -> single-label table over K + 1 outcomes, N last
    says: what was set aside: repeated phases, reads of other splits
    mrmcaov, imrmc: the reads for R, of any fracture; imrmc_text: for RJafroc. None where `says` tells why
    """

    cases: int
    patients: int
    readers: tuple[str, ...]
    ai_model: str
    questions: tuple[ReaderQuestion, ...]
    tables: dict[tuple[str, str], ClassTable]
    outcomes: tuple[str, ...]
    kappas: tuple[Kappa, ...]
    times: tuple[ReadingTime, ...]
    design: tuple[DesignCheck, ...]
    says: tuple[str, ...]
    mrmcaov: RTable
    imrmc: RTable | None
    imrmc_text: str | None


@dataclass(frozen=True)
class Identity:
    """Something that must hold among the printed numbers, and whether it does."""

    name: str
    holds: bool
    says: str


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation. models: in the order of the predictions; comparisons: every pair, on ANY and each class.

    prevalence: the site's own, for predictive values; None where none was given
    warnings: what limits the numbers, one plain sentence each, printed above them
    """

    facts: CaseFacts
    models: tuple[ModelResult, ...]
    comparisons: tuple[Comparison, ...]
    readers: Readers | None
    prevalence: float | None
    seed: int
    resamples: int
    identities: tuple[Identity, ...]
    warnings: tuple[str, ...]
    provenance: Provenance
