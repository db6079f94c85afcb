"""What an acceptance run leaves behind: the numbers the ledger keeps, and the report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hipnode import ledger
from hipnode.evaluation.acceptance import cases
from hipnode.evaluation.acceptance.judgement import Acceptance, Answers
from hipnode.evaluation.acceptance.protocol import Protocol
from hipnode.evaluation.acceptance.report import RunFacts, acceptance_document
from hipnode.evaluation.assemble import Options, evaluate
from hipnode.evaluation.provenance import content_sha256, provenance
from hipnode.evaluation.report.document import Document
from hipnode.evaluation.report.evaluation import evaluation_document
from hipnode.evaluation.tables import Label, Tables, TablesUnusable
from hipnode.evaluation.thresholds import Wanted
from hipnode.packages import ModelPackage
from hipnode.status import AcceptanceOutcome


@dataclass(frozen=True)
class Request:
    """What the command was asked to do. Either data, or labels and predictions.

    package: None where it is not installed and the predictions were made elsewhere
    """

    protocol: Protocol
    protocol_text: str
    protocol_file: str
    package: ModelPackage | None
    classes: tuple[str, ...]
    data: Path | None
    labels: Path | None
    predictions: Path | None
    out: Path
    who: str
    again: str | None
    device: str
    command: str


@dataclass(frozen=True)
class Judged:
    """What a judgement is made of, for the ledger and the report. tables: None where no answer was looked at."""

    found: Acceptance
    answers: Answers | None = None
    labels: tuple[Label, ...] = ()
    thresholds: tuple[cases.ThresholdUsed, ...] = ()
    tables: Tables | None = None

    @classmethod
    def without_answers(cls, lacking: Sequence[str]) -> "Judged":
        """Too few cases by the labels alone."""
        return cls(Acceptance(AcceptanceOutcome.NOT_ENOUGH, (), (), (), tuple(lacking)))


def results_of(judged: Judged, run: ledger.AcceptanceRun) -> dict[str, Any]:
    """What the ledger keeps of the numbers: enough to read the verdict without the report."""
    found = judged.found
    return {
        "reasons": list(found.reasons),
        "hypotheses": [
            {
                "says": j.hypothesis.says,
                **asdict(j.estimate),
                "patients_with": j.positives,
                "patients_without": j.negatives,
                "verdict": str(j.verdict),
            }
            for j in found.judgements
        ],
        "worse_strata": [f"{r.column} {r.value}: {r.metric}" for r in found.strata if r.flagged == "worse"],
        "stress": [s.says for s in found.stress],
        "thresholds": {t.class_name: t.used for t in judged.thresholds},
        "units": 0 if judged.answers is None else len(judged.answers.patients),
        "read": 0 if judged.answers is None else int(judged.answers.read.sum()),
        "predictions_sha256": (
            ""
            if judged.tables is None
            else content_sha256([*judged.tables.predictions, *judged.tables.unread])
        ),
        "earlier_runs": [row.id for row in run.earlier],
        "runs_of_other_packages": run.others,
    }


def document_of(
    request: Request, judged: Judged, run: ledger.AcceptanceRun, plan: ledger.AcceptancePlan, seal: str
) -> Document:
    """The report of a run that has its outcome, with the evaluation of the same answers in full."""
    detail, why = None, ""
    if judged.answers is not None and judged.tables is not None:
        try:
            detail = _evaluation(request, judged, plan)
        except TablesUnusable as error:
            why = str(error)
    history = [*_history(run, plan), *([f"The evaluation in full could not be made: {why}."] if why else [])]
    name = f"{plan.package_id} {plan.package_version}".rstrip()
    frozen = (
        f"The protocol was frozen in the ledger as run {run.number} on {run.frozen_at:%Y-%m-%d %H:%M} UTC by "
        f"{run.frozen_by}, before any film was read."
    )
    if request.predictions is not None:
        frozen = frozen.replace(", before any film was read.", ".") + (
            " The predictions were made elsewhere, before that; that nobody had looked at them, and that this package "
            "made them, is the word of whoever ran the command."
        )
    facts: tuple[tuple[str, str], ...] = (
        ("Acceptance run", str(run.number)),
        ("Seal of the record in the ledger", seal),
        ("Package", name),
        ("Package weights, SHA-256", plan.package_sha256 or "not known"),
        ("Protocol, SHA-256", plan.protocol_sha256),
        ("Labels" if request.predictions is None else "Labels and predictions", plan.data_sha256),
        ("Run by", request.who),
    )
    if detail is None:  # else the evaluation says them
        facts = (*facts, ("Command", request.command), ("Code", f"hipnode {plan.code_version}"))
    touched = judged.tables is not None
    return acceptance_document(
        request.protocol,
        judged.found,
        RunFacts(name, frozen, tuple(history), touched, bool(run.earlier), facts),
        judged.answers,
        judged.labels,
        judged.thresholds,
        detail,
    )


def _evaluation(request: Request, judged: Judged, plan: ledger.AcceptancePlan) -> Document:
    protocol, tables = request.protocol, judged.tables
    assert tables is not None  # noqa: S101
    package = (plan.package_id, plan.package_version, plan.package_sha256) if plan.package_sha256 else None
    options = Options(
        unit=protocol.unit,
        thresholds=Wanted(
            each={t.class_name: t.used for t in judged.thresholds},
            rule=request.package.rule if request.package is not None else None,
        ),
        seed=protocol.seed,
        resamples=protocol.resamples,
    )
    made = provenance(
        tables, seed=protocol.seed, resamples=protocol.resamples, command=request.command, package=package
    )
    return evaluation_document(evaluate(tables, options, made), with_errors=False)


def _history(run: ledger.AcceptanceRun, plan: ledger.AcceptancePlan) -> list[str]:
    said = []
    if run.earlier:
        runs = ", ".join(
            f"run {row.id} on {row.frozen_at:%Y-%m-%d} ({row.outcome or 'open'})" for row in run.earlier
        )
        said.append(
            f"These test cases, or some of them, were used before with this package: {runs}. The reason given for "
            f"using them again: {run.again}. A package that is tried again and again passes in the end by chance."
        )
    elif plan.cases:
        said.append("The ledger knows of no earlier run of this package on any of these test cases.")
    if run.others:
        said.append(
            f"{run.others} run{'s' if run.others > 1 else ''} of other packages used some of these test cases. The "
            "best of several packages on one test part is, by chance, better there than elsewhere."
        )
    if run.resumed:
        said.append(
            "The run was interrupted before it had an outcome and was finished as it was frozen; films that had been "
            "read were not read again."
        )
    return said
