"""One acceptance run: checked, frozen in the ledger, read, judged, recorded, and only then shown."""

import hashlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.cli.acceptance_page import Judged, Request, document_of, results_of
from hipnode.cli.progress import counting
from hipnode.decision import DecisionRule
from hipnode.errors import HipnodeError, LedgerDown
from hipnode.evaluation.acceptance import cases
from hipnode.evaluation.acceptance.judgement import (
    Acceptance,
    Answers,
    StressJudgement,
    judge,
    judge_refusal,
    judge_stress,
)
from hipnode.evaluation.acceptance.protocol import ProtocolUnusable, misfits
from hipnode.evaluation.cases import ALL, TEST, models_in
from hipnode.evaluation.films.data import predict_folder, read_data
from hipnode.evaluation.films.runs import PREDICTIONS
from hipnode.evaluation.films.stress import change
from hipnode.evaluation.films.stressed import stress_rows, stressed_tables
from hipnode.evaluation.provenance import code_version, content_sha256
from hipnode.evaluation.report.writing import write
from hipnode.evaluation.tables import Label, Tables, load, read_rows
from hipnode.settings import Settings
from hipnode.status import AcceptanceOutcome

Tell = Callable[
    [int, Acceptance], None
]  # hears the number of the run, and its outcome once it is written down
PROTOCOL_COPY = "protocol.toml"
RECORD = "acceptance.json"
_ANOTHER_RUN = (
    "{} holds files that are not of this run. Answers made before the protocol was frozen cannot be used; give an "
    "empty folder with --out."
)


def run_acceptance(request: Request, make: sessionmaker[Session], settings: Settings, tell: Tell) -> Path:
    """Run a protocol once; the page of its report.

    The order is what makes it an acceptance: everything that can be wrong is told first; the protocol, the
    labels and the test cases go into the ledger before a film is read; the outcome goes there before `tell` hears
    it; the report comes last. Where only the report is missing, of a run that has ended, it is made again.
    Raises ProtocolUnusable, TablesUnusable, AcceptanceRefused and what reading films raises.
    """
    labels, given = _tables_given(request)
    sha256 = _weights(request)
    _check(request, labels, given, sha256)
    lacking = cases.shortages(request.protocol, labels, request.classes)
    plan = ledger.AcceptancePlan(
        package_id=request.protocol.package,
        package_version=_version(request, given),
        package_sha256=sha256 or "",
        protocol_name=request.protocol.name,
        protocol_sha256=request.protocol.sha256_of_content,
        protocol=request.protocol_text,
        data_sha256=_data_sha256(labels, given),
        cases=frozenset() if lacking else cases.keys_of(cases.judged_labels(labels)),
        code_version=code_version(),
        again=request.again,
    )
    _check_out(request, plan)
    ended = _without_report(request, plan, make)
    if ended is not None:
        run, judged, seal = _judged_again(request, settings, given, lacking, ended, make)
    else:
        run, judged, seal = _judged_once(request, settings, given, lacking, plan, make)
    tell(run.number, judged.found)
    document = document_of(request, judged, run, plan, seal)
    if request.package is not None:
        document = replace(document, warnings=(*request.package.cautions, *document.warnings))
    return write(document, request.out)


def _judged_once(
    request: Request,
    settings: Settings,
    given: Tables | None,
    lacking: list[str],
    plan: ledger.AcceptancePlan,
    make: sessionmaker[Session],
) -> tuple[ledger.AcceptanceRun, Judged, str]:
    """Freeze, read, judge, and write down the outcome. The run, what was judged, and the seal."""
    owner = f"{socket.gethostname()}:{os.getpid()}"
    with ledger.transaction(make) as session:
        run = ledger.begin_acceptance(session, plan, request.who, owner, _now())
    try:
        with _signs_of_life(make, run):
            _lay_out(request, plan, run)
            if lacking:
                judged = Judged.without_answers(lacking)
            else:
                tables = given or _read_films(request, settings)
                run = _note_films(request, make, run, plan, cases.judged_labels(tables.labels))
                judged = _judge(request, tables)
        with ledger.transaction(make) as session:
            results = results_of(judged, run)
            seal = ledger.end_acceptance(session, run, judged.found.outcome, results, request.who, _now())
    except BaseException:
        _let_go(make, run)
        raise
    return run, judged, seal


def _without_report(
    request: Request, plan: ledger.AcceptancePlan, make: sessionmaker[Session]
) -> ledger.AcceptanceRow | None:
    """The run whose folder this is, if it was frozen with the same plan and ended, and its report is missing."""
    record = request.out / RECORD
    if not record.exists() or (request.out / "report.html").exists():
        return None
    number = json.loads(record.read_text("utf-8")).get("run")
    with ledger.reading(make) as session:
        row = ledger.show_acceptance(session, number) if isinstance(number, int) else None
    if row is None or row.outcome is None or not row.intact:
        return None
    frozen = (row.protocol_sha256, row.data_sha256, row.package_sha256, row.code_version)
    same = frozen == (plan.protocol_sha256, plan.data_sha256, plan.package_sha256, plan.code_version)
    return row if same and "hypotheses" in (row.results or {}) else None


def _judged_again(
    request: Request,
    settings: Settings,
    given: Tables | None,
    lacking: list[str],
    row: ledger.AcceptanceRow,
    make: sessionmaker[Session],
) -> tuple[ledger.AcceptanceRun, Judged, str]:
    """What the report of an ended run needs. Raises HipnodeError unless it comes to what the ledger keeps."""
    kept = row.results or {}
    with ledger.reading(make) as session:
        earlier = [ledger.show_acceptance(session, number) for number in kept["earlier_runs"]]
    run = ledger.AcceptanceRun(
        row.id, row.fence, "", row.frozen_at, row.frozen_by, row.again, row.fence > 1,
        tuple(one for one in earlier if one is not None), kept["runs_of_other_packages"],
    )  # fmt: skip
    judged = (
        Judged.without_answers(lacking)
        if lacking
        else _judge(request, given or _read_films(request, settings))
    )
    if json.loads(json.dumps(results_of(judged, run))) != kept:
        raise HipnodeError(
            f"Run {row.id} has ended, its report is missing, and the answers in {request.out} are not those it was "
            f"judged by. `hipnode accept show {row.id}` prints what the ledger keeps."
        )
    return run, judged, row.seal or ""


def _tables_given(request: Request) -> tuple[tuple[Label, ...], Tables | None]:
    """The labels, and all tables where the predictions are there already."""
    if request.data is not None:
        return read_data(request.data, request.classes).labels, None
    assert request.labels is not None  # noqa: S101  (the command line says so)
    assert request.predictions is not None  # noqa: S101
    tables = load(request.labels, request.predictions, request.classes)
    return tables.labels, tables


def _check(request: Request, labels: Sequence[Label], given: Tables | None, sha256: str | None) -> None:
    """Raise ProtocolUnusable with everything that keeps the run from ending well."""
    protocol = request.protocol
    id_ = request.package.id if request.package is not None else protocol.package
    problems = misfits(protocol, id_, sha256, request.classes)
    problems += cases.problems_before(protocol, labels, request.classes)
    if given is not None:
        models = models_in(given)
        named = ", ".join(" ".join(m).rstrip() for m in models)
        if len(models) > 1:
            problems.append(f"the predictions are of {len(models)} models ({named}); a run judges one")
        elif models[0][0] != protocol.package:
            problems.append(f"the predictions are of {named}, the protocol is about {protocol.package}")
        if protocol.stress:
            problems.append("stress tests need the films: give them with --data, or leave [[stress]] out")
    if protocol.thresholds.source == "package" and request.package is None:
        problems.append(
            f"thresholds: are those of the package, and {protocol.package} is not installed here; install it, or write "
            'them down with from = "protocol"'
        )
    if problems:
        raise ProtocolUnusable(request.protocol_file, problems)


def _weights(request: Request) -> str | None:
    """SHA-256 of the weights that gave the answers, as far as it is known.

    Predictions made by `hipnode evaluate --package` carry it; of others nobody can say which weights made them.
    """
    if request.predictions is None:
        return None if request.package is None else request.package.sha256
    said = {row.get("package_sha256") for _, row in read_rows(request.predictions)}
    only = next(iter(said)) if len(said) == 1 else None
    return str(only) if only else None


def _version(request: Request, given: Tables | None) -> str:
    if given is not None:
        return models_in(given)[0][1][:64]
    return request.package.version if request.package is not None else ""


def _data_sha256(labels: Sequence[Label], given: Tables | None) -> str:
    """Of the labels; with predictions made elsewhere of both, so that neither changes between freeze and end."""
    if given is None:
        return content_sha256(labels)
    return content_sha256([*labels, *given.predictions, *given.unread])


def _check_out(request: Request, plan: ledger.AcceptancePlan) -> None:
    """Raise HipnodeError where the folder for the report cannot be written or holds something of another run."""
    if request.out.exists() and not request.out.is_dir():
        raise HipnodeError(f"{request.out} is a file; give a folder with --out.")
    try:
        request.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=request.out):
            pass
    except OSError as error:
        raise HipnodeError(f"Nothing can be written to {request.out}: {error.strerror}.") from error
    there = {path.name for path in request.out.iterdir()}
    copy = request.out / PROTOCOL_COPY
    if (
        PROTOCOL_COPY in there
        and copy.is_file()
        and copy.read_text("utf-8", "replace") == request.protocol_text
    ):
        there.discard(PROTOCOL_COPY)
    if not there:
        return
    try:
        record = json.loads((request.out / RECORD).read_text("utf-8"))
        same = record["protocol_sha256"] == plan.protocol_sha256 and record["data_sha256"] == plan.data_sha256
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same or "report.html" in there:
        raise HipnodeError(_ANOTHER_RUN.format(request.out))


def _lay_out(request: Request, plan: ledger.AcceptancePlan, run: ledger.AcceptanceRun) -> None:
    """The protocol as it was frozen, and what it was frozen with, beside the report to come."""
    if (request.out / RECORD).exists():
        there = json.loads((request.out / RECORD).read_text("utf-8"))
        if (there.get("run"), there.get("frozen_at")) != (run.number, run.frozen_at.isoformat()):
            raise HipnodeError(_ANOTHER_RUN.format(request.out))
    (request.out / PROTOCOL_COPY).write_text(request.protocol_text, encoding="utf-8")
    record = {
        "run": run.number,
        "frozen_at": run.frozen_at.isoformat(),
        "package": plan.package_id,
        "package_sha256": plan.package_sha256,
        "protocol_sha256": plan.protocol_sha256,
        "data_sha256": plan.data_sha256,
    }
    (request.out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _read_films(request: Request, settings: Settings) -> Tables:
    changes = [change(s.transform, level) for s in request.protocol.stress for level in s.levels]
    assert request.data is not None  # noqa: S101  (no tables were given)
    with counting("films") as progress:
        made = predict_folder(
            request.data,
            request.protocol.package,
            request.out,
            settings,
            device=request.device,
            stresses=changes,
            progress=progress,
        )
    return load(made.labels, made.predictions, request.classes)


def _note_films(
    request: Request,
    make: sessionmaker[Session],
    run: ledger.AcceptanceRun,
    plan: ledger.AcceptancePlan,
    test: Sequence[Label],
) -> ledger.AcceptanceRun:
    """Tell the ledger the hashes of the films that were read, so that a renamed film is known again."""
    path = request.predictions or request.out / PREDICTIONS
    judged = {label.case_id: label.hip or "" for label in test}
    films = {
        f"{row['film_sha256']}{judged[row['case_id']]}"
        for _, row in read_rows(path)
        if row.get("film_sha256") and row.get("case_id") in judged
    }
    with ledger.transaction(make) as session:
        return ledger.touch_more_cases(session, run, plan, [_sha256(film) for film in sorted(films)])


def _judge(request: Request, tables: Tables) -> Judged:
    protocol = request.protocol
    model = models_in(tables)[0]
    own = request.package.rule if request.package is not None else None
    try:
        thresholds = cases.thresholds_of(protocol, tables, model, own)
    except cases.NoThreshold as why:
        return Judged(Acceptance(AcceptanceOutcome.NOT_ENOUGH, (), (), (), (f"{why}.",)), tables=tables)
    rule = replace(own or DecisionRule(), thresholds={t.class_name: t.used for t in thresholds})
    answers, labels = cases.answers_of(protocol, tables, model, rule)
    strata = {column: cases.stratum_values(column, labels) for column in protocol.strata.columns}
    stress = _stress(request, tables, model, rule, answers) if protocol.stress else []
    found = judge(protocol, answers, strata, stress)
    return Judged(found, answers, tuple(labels), thresholds, tables)


def _stress(
    request: Request, tables: Tables, model: tuple[str, str], rule: DecisionRule, untouched: Answers
) -> list[StressJudgement]:
    stressed = stressed_tables(tables, request.out / "stress.jsonl")
    split = TEST if any(label.split for label in tables.labels) else ALL
    rows: list[StressJudgement] = []
    for one in request.protocol.stress:
        for level in one.levels:
            made = change(one.transform, level)
            under = stressed.get(made.name, replace(tables, predictions=(), unread=()))
            if made.transform.must_refuse:
                (row,) = stress_rows(tables, {made.name: under}, [made], model, split, rule)
                rows.append(judge_refusal(one, level, row.refused))
            else:
                rows += judge_stress(
                    one, level, untouched, cases.answers_of(request.protocol, under, model, rule)[0]
                )
    return rows


@contextmanager
def _signs_of_life(make: sessionmaker[Session], run: ledger.AcceptanceRun) -> Iterator[None]:
    """Renew the lease while the run goes on; a database that does not answer for a while is asked again."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(ledger.acceptances.LEASE.total_seconds() / 4):
            try:
                with ledger.transaction(make) as session:
                    ledger.renew_acceptance(session, run, _now())
            except LedgerDown:
                continue
            except ledger.AcceptanceRefused:
                return  # ending it will say so

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _let_go(make: sessionmaker[Session], run: ledger.AcceptanceRun) -> None:
    try:
        with ledger.transaction(make) as session:
            ledger.leave_acceptance(session, run)
    except HipnodeError:
        return  # its lease ends by itself


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC)
