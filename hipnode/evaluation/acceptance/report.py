"""The report of an acceptance run: verdict first, then what was decided before and all that was found. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from hipnode.evaluation.acceptance.cases import ThresholdUsed
from hipnode.evaluation.acceptance.judgement import Acceptance, Answers, Verdict
from hipnode.evaluation.acceptance.protocol import ANY, Protocol
from hipnode.evaluation.report.document import Cell, Document, Section, Table
from hipnode.evaluation.report.words import count, listed, plural
from hipnode.evaluation.review import KINDS, Reviewed, as_csv, errors
from hipnode.evaluation.tables import Label
from hipnode.status import AcceptanceOutcome

HEADLINES = {
    AcceptanceOutcome.PASS: "PASS",
    AcceptanceOutcome.FAIL: "FAIL",
    AcceptanceOutcome.NOT_ENOUGH: "NO VERDICT: not enough cases",
    AcceptanceOutcome.ABANDONED: "ABANDONED",
}
REVIEW = "review.csv"


@dataclass(frozen=True)
class RunFacts:
    """What the ledger and the command know of the run, as the report says it.

    history: sentences on earlier uses of the test cases, and on interruptions
    touched: whether an answer to a test case was looked at
    used_before: whether test cases were used by an earlier run of the package
    provenance: (what, value) lines: hashes, versions, who and when
    """

    package: str
    frozen: str
    history: tuple[str, ...]
    touched: bool
    used_before: bool
    provenance: tuple[tuple[str, str], ...]


def acceptance_document(
    protocol: Protocol,
    found: Acceptance,
    facts: RunFacts,
    answers: Answers | None = None,
    labels: Sequence[Label] = (),
    thresholds: Sequence[ThresholdUsed] = (),
    evaluation: Document | None = None,
) -> Document:
    """The report. answers and labels: of the test part, in one order; evaluation: of the same answers, for detail."""
    sections = [_decided(protocol, thresholds)]
    wrong = _errors(answers, labels) if answers is not None else ()
    if found.strata:
        sections.append(_strata_section(protocol, found))
    if found.stress:
        sections.append(_stress_section(protocol, found))
    if answers is not None:
        sections.append(_review_section(protocol, wrong))
    warnings = _warnings(protocol, found, thresholds)
    files: tuple[tuple[str, str], ...] = ()
    if answers is not None:
        files = ((REVIEW, as_csv(wrong)),)
    if evaluation is not None:
        sections += [
            Section(
                "The evaluation in full",
                (
                    "What follows is the evaluation of the same answers. It is about the units that were read and "
                    "decides nothing: the verdict is on the first page.",
                    *evaluation.warnings,
                    *evaluation.summary.paragraphs,
                ),
                evaluation.summary.parts,
            ),
            *evaluation.sections,
        ]
        files += evaluation.files
    return Document(
        title=f"Acceptance of {facts.package}: {HEADLINES[found.outcome]}",
        summary=_verdict(protocol, found, facts, answers),
        sections=tuple(sections),
        facts=(*facts.provenance, *(evaluation.facts if evaluation is not None else ())),
        warnings=tuple(warnings),
        files=files,
    )


def _errors(answers: Answers, labels: Sequence[Label]) -> tuple[Reviewed, ...]:
    """Every unit that was answered wrongly or not, in the view of the protocol."""
    cases = [label.case_id for label in labels]
    return errors(cases, answers.classes, answers.truth, answers.called, answers.scores, answers.read)


def _verdict(protocol: Protocol, found: Acceptance, facts: RunFacts, answers: Answers | None) -> Section:
    number = len(protocol.hypotheses)
    where = ""
    if answers is not None:
        units, patients = len(answers.patients), len(set(answers.patients.tolist()))
        where = f" on {count(units, protocol.unit)} of {count(patients, 'patient')}"
    all_of = "The one hypothesis" if number == 1 else f"All {number} hypotheses"
    hold = "holds" if number == 1 else "hold"
    first = {
        AcceptanceOutcome.PASS: f"PASS. {all_of} written down before the run {hold}{where}.",
        AcceptanceOutcome.FAIL: f"FAIL{where}. Everything the protocol asks for must hold; this does not:",
        AcceptanceOutcome.NOT_ENOUGH: f"NO VERDICT{where}. There are too few cases to say pass or fail:",
    }.get(found.outcome, HEADLINES[found.outcome])
    lines = [first, *found.reasons, *_in_words(protocol, answers)]
    if not facts.touched:
        lines.append(
            "No film of the test part was read for this run and no answer was looked at: the test part can be used "
            "when there are enough cases."
        )
    lines += [facts.frozen, *facts.history]
    strict = all(h.by == "lower limit" for h in protocol.hypotheses)
    if found.outcome is AcceptanceOutcome.PASS and strict and not facts.used_before:
        lines.append(
            "What a pass means: a package that in truth misses one of the bounds passes in about 1 of 40 such runs, "
            "and less often the further it misses. It says nothing about other patients and devices, nor about errors "
            "of the reference."
        )
    return Section("The verdict", tuple(lines), (_hypotheses(protocol, found),) if found.judgements else ())


def _in_words(protocol: Protocol, answers: Answers | None) -> list[str]:
    """What it found and what it alarmed at, in counts."""
    if answers is None:
        return []
    truth, called, _ = answers.of(ANY)
    right = int((~called & ~truth & answers.read).sum())
    text = (
        f"It found {count(int((called & truth).sum()))} of {count(int(truth.sum()), protocol.unit)} with a fracture, "
        f"and rightly left {count(right)} of {count(int((~truth).sum()))} without one unmarked."
    )
    silent = int((~answers.read).sum())
    if silent:
        text += f" To {count(silent, protocol.unit)} of all it gave no answer."
    return [text]


def _hypotheses(protocol: Protocol, found: Acceptance) -> Table:
    rows = tuple(
        (
            j.hypothesis.says,
            j.estimate,
            j.positives,
            j.negatives,
            str(j.verdict),
        )
        for j in found.judgements
    )
    notes = [
        "Each interval is two-sided 95 %, so a lower limit tests its bound one-sided at 2.5 %. All hypotheses must "
        "hold; therefore their number needs no correction (Berger, Technometrics 1982;24:295-300).",
        f"Calls are in the {protocol.view} view."
        + (
            f" A {protocol.unit} without an answer counts as a wrong one."
            if protocol.not_read == "wrong"
            else f" A {protocol.unit} without an answer is left out."
        ),
    ]
    columns = ("hypothesis", "found", "patients with", "patients without", "verdict")
    return Table("acceptance-hypotheses", "The hypotheses", protocol.unit, columns, rows, tuple(notes))


def _decided(protocol: Protocol, thresholds: Sequence[ThresholdUsed]) -> Section:
    rows: list[tuple[Cell, ...]] = [
        ("protocol", protocol.name),
        ("dated", protocol.date.isoformat()),
        ("written by", ", ".join(w for w in (protocol.written_by, protocol.role) if w) or None),
        ("package", protocol.package),
        ("minimum", f"{protocol.minimum.positives} patients with, {protocol.minimum.negatives} without"),
        ("thresholds from", protocol.thresholds.source),
        ("units without an answer", protocol.not_read),
        ("view", protocol.view),
        ("strata", listed(list(protocol.strata.columns)) or "none"),
        ("a stratum that is worse", "fails the run" if protocol.strata.flagged == "fail" else "is printed"),
        ("stress tests", listed([s.transform.replace("_", " ") for s in protocol.stress]) or "none"),
        ("SHA-256 of what it says", protocol.sha256_of_content),
    ]
    parts = [Table("acceptance-protocol", "The protocol", "protocol", ("what", "value"), tuple(rows))]
    if thresholds:
        moved = tuple(
            (t.class_name, t.used, t.package, t.estimated,
             None if t.estimated is None or t.package is None else t.estimated - t.package)
            for t in thresholds
        )  # fmt: skip
        rule = (
            "Youden's index"
            if protocol.thresholds.sensitivity is None
            else f"sensitivity {protocol.thresholds.sensitivity:g}"
        )
        note = (
            f"Estimated: on the validation part by {rule}. A shift says how far the site's own cases would move the "
            "threshold; a large one is a reason to look at the films before the package is used."
        )
        columns = ("class", "used here", "of the package", "estimated here", "shift")
        parts.append(Table("acceptance-thresholds", "Thresholds", "class", columns, moved, (note,)))
    words = "All of this was fixed before the run; the text is in protocol.toml beside this report and in the ledger."
    return Section("What was decided before", (words,), tuple(parts))


def _strata_section(protocol: Protocol, found: Acceptance) -> Section:
    rows = tuple(
        (
            f"{r.column} {r.value}",
            r.metric,
            r.estimate,
            r.overall,
            r.flagged or "no",
            "yes" if r.fails else "no",
        )
        for r in found.strata
    )
    looked = sum(r.estimate.low is not None for r in found.strata)
    note = (
        f"Any fracture. Flagged: the interval excludes the value of all {plural(protocol.unit)}. Of {looked} intervals "
        f"about {max(1, round(looked / 20))} would do so by chance."
    )
    columns = ("stratum", "number", "found", "all", "flagged", "fails the run")
    table = Table("acceptance-strata", "Strata", protocol.unit, columns, rows, (note,))
    return Section("Subgroups", (), (table,))


def _stress_section(protocol: Protocol, found: Acceptance) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for s in found.stress:
        allowed = (
            f"{s.stress.refused:g} or more" if s.difference is None else f"drop of {s.stress.largest_drop:g}"
        )
        name = f"{s.stress.transform.replace('_', ' ')} {s.level:g}"
        rows.append((name, s.metric, s.changed, s.difference, allowed, s.stress.by, str(s.verdict)))
    columns = ("change", "number", "found", "difference", "allowed", "judged by", "verdict")
    note = "Any fracture. Difference: changed minus untouched, on the same units in pairs; n of it are these units."
    table = Table("acceptance-stress", "Stress tests", protocol.unit, columns, tuple(rows), (note,))
    return Section("Changed films", (), (table,))


def _review_section(protocol: Protocol, found: Sequence[Reviewed]) -> Section:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (kind, sum(error.what == kind for error in found)) for kind in KINDS
    )
    words = (
        f"Every one of them is a line in files/{REVIEW}, with columns for cause, harm and mitigation. "
        "Look at every missed fracture and at a sample of the false alarms before the package is used: a good average "
        "hides an obvious fracture that was missed (Oakden-Rayner et al., Lancet Digit Health 2022;4:e351-8)."
    )
    table = Table("acceptance-review", "To be looked at", protocol.unit, ("what", "n"), rows)
    return Section("Errors to review", (words,), (table,))


def _warnings(protocol: Protocol, found: Acceptance, thresholds: Sequence[ThresholdUsed]) -> list[str]:
    said = []
    by_value = [h for h in protocol.hypotheses if h.by == "value"]
    if by_value:
        said.append(
            f"Judged by the value alone: {listed([h.says for h in by_value])}. A package that just misses such a bound "
            "passes nearly as often as not."
        )
    moved = [t.class_name for t in thresholds if t.package is not None and t.used != t.package]
    if moved:
        said.append(
            f"The thresholds of {listed(moved)} are not those with which the package fires in the node. The verdict is "
            "about the ones in this report; write them into model.toml before the package is used."
        )
    flagged = sum(r.flagged == "worse" for r in found.strata)
    if flagged:
        said.append(
            f"{count(flagged, 'number')} of subgroups {'is' if flagged == 1 else 'are'} worse than the whole."
        )
    if (
        any(v.verdict is Verdict.TOO_FEW for v in found.judgements)
        and found.outcome is AcceptanceOutcome.FAIL
    ):
        said.append("Some hypotheses had too few cases; the run fails by one that had enough.")
    return said
