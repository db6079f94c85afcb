"""From studies to a monitoring report: weeks, limits, drift, errors against reports, alarms in words."""

import random
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hipnode.evaluation.report.document import Document, Table
from hipnode.evaluation.statistics.monitoring import CHANCE
from hipnode.evaluation.watch.assemble import first_day_needed, packages_in, watch
from hipnode.evaluation.watch.drawn import figures
from hipnode.evaluation.watch.imports import parse_reports
from hipnode.evaluation.watch.pages import document
from hipnode.evaluation.watch.records import ANY, History, Watch
from hipnode.status import AcceptanceOutcome, ReasonCode
from hipnode.watched import Ending, LastAcceptance, NotCounted, Package, Reported, WatchedStudy

HIP = Package("hip", "f" * 64)
BEGIN = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
A_DAY = 20
Change = Callable[[WatchedStudy, random.Random], WatchedStudy]


def study(number: int, **changes: Any) -> WatchedStudy:
    at = BEGIN + timedelta(days=number / A_DAY)
    made = WatchedStudy(number, at, HIP, Ending.READ, latency_s=20.0, sender="PACS", scores={})
    return made._replace(**changes)


def steady(days: int, change: Change | None = None, since: int = 10**9, seed: int = 1) -> list[WatchedStudy]:
    """20 studies a day: 3 of 10 fractured, 9 of 10 of those found, 1 of 20 others marked, 1 of 10 refused."""
    generator = random.Random(seed)
    made = []
    for number in range(days * A_DAY):
        broken = generator.random() < 0.3
        fired = generator.random() < (0.9 if broken else 0.05)
        scores = {"DF": generator.betavariate(8, 2) if fired else generator.betavariate(1, 9)}
        each = study(
            number,
            classes=("DF",) if fired else (),
            scores=scores,
            report=Reported(broken, ("DF",) if broken else ()),
            latency_s=generator.gammavariate(4, 5),
        )
        if generator.random() < 0.1:
            each = each._replace(ending=Ending.REFUSED, package=None, classes=(), scores=None,
                                 reason_code=ReasonCode.IMPLANT, latency_s=None)  # fmt: skip
        if change is not None and number >= since * A_DAY:
            each = change(each, generator)
        made.append(each)
    return made


def report_of(studies: Sequence[WatchedStudy], since: date, until: date) -> Watch:
    """What the command does with a ledger that holds these studies."""
    needed = first_day_needed(since, until)
    here = [s for s in studies if needed <= s.received_at.date() <= until]
    histories = {}
    for package in packages_in(here):
        read = [s for s in studies if s.package == package and s.ending is Ending.READ]
        scored = [s for s in read if s.scores is not None]
        histories[package] = History(read[:500], scored[:500], [s for s in read if s.report])
    first = [s for s in studies if s.package is None or not s.package.shadow][:500]
    return watch(here, first, histories, NotCounted(), since, until)


def alarms(made: Watch) -> dict[str, str]:
    return {alarm.what: alarm.says for alarm in made.alarms}


LAST = date(2026, 6, 3)  # 150 days after the first


def test_a_ledger_without_studies_says_so() -> None:
    made = watch([], [], {}, NotCounted(), date(2026, 3, 4), date(2026, 3, 17))
    assert [flow.name for flow in made.weeks] == ["2026-W10", "2026-W11", "2026-W12"]
    assert (made.first, made.last, made.alarms, made.packages) == (
        date(2026, 3, 2),
        date(2026, 3, 17),
        (),
        (),
    )
    assert "nothing to judge" in document(made, []).summary.paragraphs[0]
    assert document(made, [], figures(made)).sections == ()
    with pytest.raises(ValueError, match="first day lies after the last"):
        watch([], [], {}, NotCounted(), date(2026, 3, 4), date(2026, 3, 3))


def test_weeks_are_iso_weeks_also_over_the_new_year() -> None:
    made = watch([], [], {}, NotCounted(), date(2025, 12, 31), date(2026, 1, 6))
    assert [flow.name for flow in made.weeks] == ["2026-W01", "2026-W02"]
    assert made.weeks[0].period.first == date(2025, 12, 29)
    assert first_day_needed(date(2026, 3, 4), date(2026, 3, 17)) == date(2025, 12, 18)
    assert first_day_needed(date(2025, 3, 5), date(2026, 3, 17)) == date(2025, 3, 3)


def test_what_never_changes_raises_no_alarm_and_every_study_is_counted_once() -> None:
    studies = steady(150, seed=2)
    made = report_of(studies, date(2026, 3, 30), LAST)
    assert made.alarms == ()
    assert made.comparisons > 50
    assert "without any change about" in made.notes[0]
    captions = [f.caption for f in document(made, [], figures(made)).figures()]
    assert all(c.lower().count("first 500 studies") == 1 and c.endswith(".") for c in captions)
    assert sum(flow.period.studies for flow in made.weeks) == 66 * A_DAY
    assert made.rolling.period.studies == 90 * A_DAY
    (package,) = made.packages
    assert [rate.name for rate in package.rates] == [ANY, "DF"]
    assert (package.baseline, package.scored) == (500, 500)
    assert package.read == sum(flow.period.studies - flow.period.refused for flow in made.weeks)
    counts = next(a for a in package.agreement if " to " in a.stretch).agreement.counts
    read = [s for s in studies if s.ending is Ending.READ and s.received_at.date() >= date(2026, 3, 30)]
    assert counts.tp == sum(bool(s.classes) and s.report.fracture for s in read if s.report)
    assert counts.n == package.read


def test_alarms_without_any_change_are_as_rare_as_the_notes_promise() -> None:
    made = [report_of(steady(150, seed=seed), date(2026, 3, 30), LAST) for seed in range(5)]
    promised = sum(one.comparisons for one in made) * CHANCE
    assert promised == pytest.approx(0.92, abs=0.1)
    assert sum(len(one.alarms) for one in made) <= 3


def test_the_weeks_that_set_the_limits_are_not_held_against_them() -> None:
    made = report_of(steady(60), date(2026, 1, 5), date(2026, 3, 5))
    rate = made.packages[0].rates[0]
    assert rate.judged[:4] == (False, False, False, False)  # 500 read take 28 days
    assert all(rate.judged[4:])
    assert rate.rolling.now.n == made.packages[0].read - 500


def test_weeks_before_limits_that_begin_later_are_not_held_against_them() -> None:
    def more(one: WatchedStudy, generator: random.Random) -> WatchedStudy:
        fires = one.ending is Ending.READ and generator.random() < 0.4
        return one._replace(classes=("DF",), scores={"DF": 0.9}) if fires else one

    studies = steady(150, more, 100)
    anew = [s for s in studies if s.received_at >= BEGIN + timedelta(days=100)]
    read = [s for s in anew if s.ending is Ending.READ]
    shown = [s for s in studies if s.received_at.date() >= date(2026, 3, 2)]
    history = History(read[:500], read[:500], read)
    made = watch(shown, anew[:500], {HIP: history}, NotCounted(), date(2026, 3, 2), LAST)
    rate = made.packages[0].rates[0]
    assert [p.outside for p in rate.chart.points[:6]] == [True] * 6
    assert rate.judged == (False,) * 11 + (True,) * 3
    assert made.alarms == ()
    assert made.packages[0].scores[0].weeks[0].value is None


def test_fewer_than_the_first_studies_judge_nothing() -> None:
    made = report_of(steady(20), date(2026, 1, 5), date(2026, 1, 24))
    (package,) = made.packages
    assert (package.rates[0].chart.centre, made.alarms, made.comparisons) == (None, (), 0)
    assert package.scores[0].rolling.value is None
    assert all(error.level is None and error.says.startswith("not begun") for error in package.errors)
    said = " ".join(document(made, []).summary.paragraphs)
    assert "nothing can be judged yet" in said
    assert f"{package.baseline} of the 500" in said


def test_more_positives_are_found_and_told_with_what_to_do() -> None:
    def more(one: WatchedStudy, generator: random.Random) -> WatchedStudy:
        fires = one.ending is Ending.READ and generator.random() < 0.25
        return one._replace(classes=("DF",)) if fires else one

    made = report_of(steady(150, more, 120), date(2026, 4, 6), LAST)
    said = alarms(made)
    assert "was above its limits in 2026-W" in said["any fracture: how often"]
    assert "false alarms" in said
    assert "missed fractures" not in said
    (alarm,) = (a for a in made.alarms if a.what == "DF: how often")
    assert alarm.package == HIP
    assert "false marks" in alarm.do


def test_fewer_positives_point_to_missed_fractures() -> None:
    def blind(one: WatchedStudy, generator: random.Random) -> WatchedStudy:
        return one._replace(classes=()) if generator.random() < 0.6 else one

    made = report_of(steady(150, blind, 120), date(2026, 4, 6), LAST)
    (alarm,) = (a for a in made.alarms if a.what == "any fracture: how often")
    assert "below its limits" in alarm.says
    assert alarm.do.startswith("Look for missed fractures first")
    missed = next(a for a in made.alarms if a.what == "missed fractures")
    assert "crossed its limit" in missed.says
    assert made.alarms.index(missed) < made.alarms.index(alarm), "errors come first"
    kinds = {d.kind for d in made.packages[0].disagreements}
    assert kinds == {"missed fracture", "false alarm"}


def test_scores_that_move_below_the_threshold_are_found_though_no_answer_changed() -> None:
    def brighter(one: WatchedStudy, _generator: random.Random) -> WatchedStudy:
        scores = None if one.scores is None else {"DF": min(1.0, one.scores["DF"] + 0.1)}
        return one._replace(scores=scores)

    made = report_of(steady(150, brighter, 120), date(2026, 4, 6), LAST)
    assert list(alarms(made)) == ["DF: scores"]
    assert "PSI" in alarms(made)["DF: scores"]


def test_a_score_that_means_less_than_it_did_is_told() -> None:
    def doubtful(one: WatchedStudy, generator: random.Random) -> WatchedStudy:
        if not one.classes or one.report is None or generator.random() < 0.5:
            return one
        return one._replace(report=Reported(False, ()))

    made = report_of(steady(150, doubtful, 60), date(2026, 4, 6), LAST)
    (alarm,) = (a for a in made.alarms if a.what == "meaning of scores")
    assert "of 0.7 to 0.9" in alarm.says
    package = made.packages[0]
    assert [band.low for band in package.bands] == [0.0, 0.1, 0.3, 0.5, 0.7, 0.9]
    high = package.bands[4].fractured
    read = [s for s in steady(150, doubtful, 60) if s.scores and s.report and 0.7 <= s.scores["DF"] < 0.9]
    recent = [s for s in read if s.received_at.date() >= date(2026, 3, 6)]
    assert (high.now.events, high.now.n) == (sum(s.report.fracture for s in recent if s.report), len(recent))
    assert (
        report_of(steady(20), date(2026, 1, 5), date(2026, 1, 24)).packages[0].bands[0].fractured.chance
        is None
    )


def test_refusals_that_grow_name_their_reason_and_how_to_list_them() -> None:
    def lateral(one: WatchedStudy, generator: random.Random) -> WatchedStudy:
        if generator.random() < 0.8:
            return one
        return one._replace(ending=Ending.REFUSED, package=None, classes=(), scores=None, latency_s=None,
                            reason_code=ReasonCode.VIEW_LATERAL)  # fmt: skip

    made = report_of(steady(150, lateral, 120), date(2026, 4, 6), LAST)
    (alarm,) = (a for a in made.alarms if a.what == "refused")
    assert "Lateral or axial view" in alarm.do
    assert "--reason VIEW_LATERAL" in alarm.do
    assert made.never_read > 0
    assert any("never read" in note for note in made.notes)


def test_findings_that_never_arrived_and_late_answers_are_told() -> None:
    def late(one: WatchedStudy, _generator: random.Random) -> WatchedStudy:
        return one._replace(latency_s=None if one.latency_s is None else one.latency_s * 10)

    studies = steady(150, late, 143)
    lost = next(i for i, s in enumerate(studies) if i > 145 * A_DAY and s.classes)
    studies[lost] = studies[lost]._replace(delivered=False, reason_code=ReasonCode.DESTINATION_DOWN)
    said = alarms(report_of(studies, date(2026, 4, 6), LAST))
    assert said["findings not delivered"] == "results never reached a destination, of 1 study with a finding"
    assert "longer in 2026-W22" in said["latency"]


def test_a_quiet_week_is_told_but_not_the_one_that_is_not_over() -> None:
    def silent(one: WatchedStudy) -> bool:
        return date(2026, 5, 4) <= one.received_at.date() <= date(2026, 5, 9)

    studies = [s for s in steady(150) if not silent(s)]
    needed = [s for s in studies if s.received_at.date() >= first_day_needed(date(2026, 4, 6), LAST)]
    history = History(*([s for s in studies if s.ending is Ending.READ][:500],) * 3)
    made = watch(needed, studies[:500], {HIP: history}, NotCounted(), date(2026, 4, 6), LAST, over=False)
    assert alarms(made)["volume"] == "few studies came in 2026-W19 (20), where a usual week brings 140"
    assert (made.weeks[-1].whole, made.weeks[-1].period.studies) == (False, 60)
    assert document(made, []).sections[0].parts[0].rows[-2][0] == "2026-W23 so far"  # type: ignore[union-attr]


def test_reports_of_positive_studies_only_are_told_to_flatter_the_sensitivity() -> None:
    studies = [s if s.classes or i % 10 == 0 else s._replace(report=None) for i, s in enumerate(steady(150))]
    made = report_of(studies, date(2026, 4, 6), LAST)
    assert any("Sensitivity against reports is too high for that reason alone" in note for note in made.notes)


@pytest.mark.parametrize(
    ("accepted", "says"),
    [
        (None, "no acceptance run of these weights is recorded"),
        (
            LastAcceptance(AcceptanceOutcome.FAIL, "yearly", LAST),
            "last acceptance run (yearly, 2026-06-03) failed",
        ),
        (LastAcceptance(AcceptanceOutcome.NOT_ENOUGH, "yearly", LAST), "too few cases to judge"),
        (LastAcceptance(AcceptanceOutcome.PASS, "yearly", LAST), ""),
    ],
)
def test_a_package_nobody_accepted_is_named(accepted: LastAcceptance | None, says: str) -> None:
    studies = [study(i) for i in range(10)]
    made = watch(
        studies, studies, {HIP: History(studies, accepted=accepted)}, NotCounted(), BEGIN.date(), BEGIN.date()
    )
    assert any(says in note for note in made.notes) if says else made.notes == ()


def test_a_report_without_class_counts_for_any_fracture_only() -> None:
    told = (Reported(True, ("DF",)), Reported(True, None), Reported(False, ()), None)
    studies = [study(i, classes=("DF",), report=report) for i, report in enumerate(told)]
    made = report_of(studies, BEGIN.date(), BEGIN.date())
    counts = {a.name: a.agreement.counts for a in made.packages[0].agreement if " to " in a.stretch}
    assert (counts[ANY].tp, counts[ANY].fp, counts["DF"].tp, counts["DF"].fp) == (2, 1, 1, 1)


def test_of_two_packages_and_a_shadow_each_has_its_limits_and_the_study_counts_once() -> None:
    other, shadow = Package("other", "e" * 64), Package("next", "d" * 64, shadow=True)
    studies = [
        one
        for i in range(40)
        for one in (
            study(i, classes=("DF",)),
            study(i, package=other, classes=("UF",), ending=Ending.FAILED if i == 7 else Ending.READ),
            study(i, package=shadow, ending=Ending.FAILED if i == 9 else Ending.READ),
        )
    ]
    made = report_of(studies, BEGIN.date(), BEGIN.date() + timedelta(days=6))
    assert [str(p.package) for p in made.packages] == [
        "hip (ffffffff)",
        "other (eeeeeeee)",
        "next (dddddddd, shadow)",
    ]
    assert (made.weeks[0].period.studies, made.weeks[0].period.failed) == (40, 1)
    assert made.senders[-1].studies == 40
    names = [table.name for table in document(made, [], figures(made)).tables()]
    assert len(names) == len(set(names))


def test_senders_that_differ_are_named_and_the_many_small_ones_put_together() -> None:
    busy = [study(i, classes=("DF",) if i % 4 == 0 else ()) for i in range(400)]
    ward = [study(i, sender="WARD", classes=("DF",)) for i in range(400, 440)]
    rare = [study(i, sender=f"AE{i}") for i in range(440, 480)]
    made = report_of([*busy, *ward, *rare], BEGIN.date(), BEGIN.date() + timedelta(days=30))
    assert len(made.senders) == 31
    assert (made.senders[1].name, made.senders[1].differs) == ("WARD", ("positive",))
    assert made.senders[-2].name == "13 others"
    assert sum(s.studies for s in made.senders[:-1]) == made.senders[-1].studies == 480


def test_the_pages_hold_every_table_and_no_more_than_the_document_allows() -> None:
    made = report_of(steady(150), date(2026, 4, 6), LAST)
    pages: Document = document(made, [("made", "now")], figures(made))
    tables = {t.name: t for t in pages.tables()}
    assert {
        "weeks",
        "reasons",
        "positives",
        "scores",
        "agreement",
        "meaning",
        "errors",
        "senders",
        "psi-bins",
    } <= set(tables)
    drawn = [f.name for f in pages.figures()]
    assert drawn == ["p-chart-any-fracture", "p-chart-df", "psi"]
    assert all(f.svg.startswith("<svg") for f in pages.figures())
    positives = tables["positives"]
    assert positives.rows[-1][:2] == ("first studies", 500)
    bins = [row for row in tables["psi-bins"].rows if row[1] == "last 90 days"]
    assert sum(int(str(row[4])) for row in bins) == 500
    long, short = (
        next(t for t in d.tables() if t.name == "disagreements") for d in (pages, document(made, []))
    )
    assert isinstance(short, Table)
    assert (len(short.rows), len(long.rows)) == (20, len(made.packages[0].disagreements))


def parsed(path: Path, text: str) -> tuple[list[tuple[Any, ...]], list[str]]:
    path.write_text(text, encoding="utf-8")
    made, problems = parse_reports(path, ["DF", "VF", "UF"])
    return [(r.row, r.study_instance_uid, r.accession_number, r.report) for r in made], [
        str(p) for p in problems
    ]


def test_reports_are_read_however_their_columns_are_written(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    wanted = [
        (2, "1.2.3", "", Reported(True, ("DF", "VF"))),
        (3, "1.2.4", "", Reported(False, ())),
        (4, "1.2.5", "", Reported(True, None)),
    ]
    assert parsed(file, "StudyInstanceUID,class,text\n1.2.3,vf;DF,x\n1.2.4,N,y\n1.2.5,fracture,z\n") == (
        wanted,
        [],
    )
    assert parsed(file, "study_instance_uid;Class\n1.2.3;VF DF\n1.2.4;n\n1.2.5;Fracture\n") == (wanted, [])
    one = [(2, "", "00123", Reported(True, ("UF",)))]
    assert parsed(file, "Accession Number,classes\n00123,UF\n") == (one, [])


def test_every_problem_of_an_import_is_listed_and_no_identifier_repeated(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    made, problems = parsed(
        file,
        "StudyInstanceUID,AccessionNumber,class\n"
        "1.2.3,,DF\n,,DF\nMueller,,DF\n,1.23E+14,N\n1.2.7,,Mrs Mueller fell\n1.2.8,,\n1.2.9,,N;DF\n",
    )
    assert [row[0] for row in made] == [2]
    assert [p.split(": ")[0] for p in problems] == [f"r.csv, row {row}" for row in range(3, 9)]
    assert "format that column as text" in problems[2]
    assert "fracture (class not said) or N (no fracture)" in problems[3]
    assert not any("Mueller" in p or "1.2." in p for p in problems)
    assert parsed(file, "name,class\nx,DF\n")[1] == [
        "r.csv: has no column that names the study; call it study_instance_uid or accession_number"
    ]
    assert "has no column class" in parsed(file, "StudyInstanceUID,text\n1.2.3,DF\n")[1][0]
    assert parsed(file, "")[1] == ["r.csv: has no rows"]
    assert "does not exist" in str(parse_reports(tmp_path / "none.csv", [])[1][0])
