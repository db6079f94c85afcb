"""A ledger to test on, and the steps of a study's journey in one line each."""

import hashlib
import itertools
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.findings import (
    Alternative,
    Box,
    Finding,
    ImageReading,
    KnownSide,
    Reason,
    Side,
    StudyReading,
)
from hipnode.status import AnalysisStatus, Outcome, ReasonCode
from hipnode.tables import Base
from tests.peers import Postgres

START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
PACKAGES = {"hip": "f" * 64}
PACS = ledger.Route("pacs", ("SR", "SC"))


@pytest.fixture(scope="session")
def postgres_ledger(postgres: Postgres) -> Iterator[sessionmaker[Session]]:
    """One PostgreSQL ledger for the session: to empty it is quicker than to make it anew."""
    sessions = ledger.sessions(postgres.database())
    _hurry(sessions, "SET synchronous_commit = off")
    Base.metadata.create_all(sessions.kw["bind"])
    yield sessions
    sessions.kw["bind"].dispose()


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite ledger to copy."""
    path = tmp_path_factory.mktemp("ledger") / "empty.db"
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    """Sessions on an empty ledger, on both databases."""
    if request.param == "postgres":
        sessions = request.getfixturevalue("postgres_ledger")
        with sessions.begin() as session:  # quicker than TRUNCATE for a handful of rows
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(table.delete())
                if "id" in table.c:
                    session.execute(text(f"SELECT setval('{table.name}_id_seq', 1, false)"))
        yield sessions
        return
    shutil.copyfile(request.getfixturevalue("empty_sqlite"), tmp_path / "ledger.db")
    sessions = ledger.sessions(f"sqlite:///{tmp_path / 'ledger.db'}")
    _hurry(sessions, "PRAGMA synchronous = OFF")
    yield sessions
    sessions.kw["bind"].dispose()


def _hurry(sessions: sessionmaker[Session], statement: str) -> None:
    """These tests do not cut the power (test_tables.py shows what is set against that)."""

    def at_connect(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()
        if "SET" in statement:
            connection.commit()

    event.listen(sessions.kw["bind"], "connect", at_connect)


class Journey:
    """One node's ledger and its clock."""

    def __init__(self, make: sessionmaker[Session], start: datetime = START) -> None:
        self.make, self.now = make, start
        self._numbers = itertools.count(1)

    def later(self, seconds: float) -> "Journey":
        self.now += timedelta(seconds=seconds)
        return self

    def do(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a ledger function in a transaction of its own."""
        with ledger.transaction(self.make) as session:
            return function(session, *args, **kwargs)

    def receive(
        self, study: str = "1.2", sop: str | None = None, content: str = "", **changes: Any
    ) -> ledger.Recorded:
        sop = sop or f"{study}.9.{next(self._numbers)}"
        return self.do(ledger.record_instance, received(study, sop, content, **changes), self.now)

    def close(self, package: str = "hip", skip: Sequence[int] = ()) -> list[int]:
        """Close all stable studies, every image selected but `skip`. The analyses' ids."""
        opened = self.do(ledger.studies_due_to_close, self.now, 10, 300)
        for one in opened:
            images = self.do(ledger.sources_of_study, one.study_id)
            decisions = [decided(image.instance_id, image.instance_id not in skip) for image in images]
            self.do(ledger.queue_analysis, one, package, PACKAGES.get(package), decisions, self.now)
        return [one.analysis_id for one in opened]

    def queued(self, study: str = "1.2", images: int = 1) -> int:
        """A study received and closed. Its analysis' id."""
        for _ in range(images):
            self.receive(study)
        self.later(11)
        (analysis_id,) = self.close()
        return analysis_id

    def claim(self, limit: int = 10, owner: str = "w:1", lease_s: float = 120) -> list[ledger.Claim]:
        return self.do(ledger.claim_analyses, PACKAGES, limit, lease_s, owner, self.now)

    def notices(self, limit: int = 10, **changes: Any) -> list[ledger.Claim]:
        return self.do(ledger.claim_notices, limit, 120, "d:1", self.now, **changes)

    def tell(
        self,
        claim: ledger.Claim,
        files: Sequence[ledger.ResultFile] | None = None,
        routes: Sequence[ledger.Route] = (PACS,),
        outcome: Outcome = Outcome.FINDINGS,
        reason: Reason | None = None,
    ) -> ledger.RecordedResults:
        images = self.do(ledger.images_of, claim.analysis_id)
        files = (
            [result(f"{claim.analysis_id}", "SR"), result(f"{claim.analysis_id}", "SC")]
            if files is None
            else files
        )
        return self.do(
            ledger.record_results, claim, read(images, outcome, reason), files, routes, self.now, self.now
        )

    def send(
        self, *verdicts: str, give_up_s: float = 100, skip: Sequence[str] = ()
    ) -> dict[int, AnalysisStatus]:
        """Claim all that is due and answer it: one verdict for all, or one for each kind in order."""
        ends: dict[int, AnalysisStatus] = {}
        for batch in self.do(ledger.claim_deliveries, 100, 60, "d:1", self.now, skip):
            each = verdicts if len(verdicts) > 1 else verdicts * len(batch.items)
            outcomes = [
                ledger.StoreOutcome(item.delivery_id, verdict, PEER_STATUS.get(verdict))  # type: ignore[arg-type]
                for item, verdict in zip(batch.items, each, strict=True)
            ]
            ends |= self.do(ledger.record_outcomes, batch, outcomes, self.now, give_up_s, lambda _n: 5.0)
        return ends

    def delivering(self, study: str = "1.2", **changes: Any) -> int:
        """A study received, closed, claimed and told. Its analysis' id."""
        analysis_id = self.queued(study)
        (claim,) = self.claim()
        assert claim.analysis_id == analysis_id
        self.tell(claim, **changes)
        return analysis_id

    def show(self, study_id: int = 1) -> ledger.StudyDetail:
        with ledger.reading(self.make) as session:
            detail = ledger.show_study(session, study_id)
        assert detail is not None
        return detail

    def analysis(self, analysis_id: int) -> ledger.AnalysisDetail:
        for study_id in range(1, 100):
            for analysis in self.show(study_id).analyses:
                if analysis.analysis_id == analysis_id:
                    return analysis
        raise KeyError(analysis_id)

    def status(self, analysis_id: int) -> AnalysisStatus:
        return self.analysis(analysis_id).status


PEER_STATUS = {"delivered": 0x0000, "refused": 0xC000, "retry": None}


@pytest.fixture
def journey(make: sessionmaker[Session]) -> Journey:
    return Journey(make)


def received(study: str, sop: str, content: str = "", **changes: Any) -> ledger.ReceivedInstance:
    sha256 = hashlib.sha256(f"{sop} {content}".encode()).hexdigest()
    values: dict[str, Any] = {
        "study_instance_uid": study,
        "series_instance_uid": f"{study}.8",
        "sop_instance_uid": sop,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "patient_id": "P1",
        "accession_number": f"A{study}",
        "calling_ae_title": "PACS",
        "peer_address": "10.0.0.1",
        "sha256": sha256,
        "size_bytes": 1000,
        "relative_path": f"instances/{sha256[:2]}/{sha256}.dcm",
    }
    return ledger.ReceivedInstance(**values | changes)


def decided(instance_id: int, ours: bool = True) -> ledger.ImageDecision:
    if not ours:
        return ledger.ImageDecision(instance_id, "skip", "another region", Reason.of(ReasonCode.OTHER_REGION))
    flags = (Reason(ReasonCode.VIEW_PA, "PA: sides may be mirrored."),)
    return ledger.ImageDecision(instance_id, "analyse_flag", "hip AP", Reason.of(ReasonCode.VIEW_PA), flags)


def read(images: Sequence[ledger.Image], outcome: Outcome, reason: Reason | None = None) -> StudyReading:
    found = Finding(
        "DF",
        0.93,
        Box(10.5, 20.0, 110.25, 220.0),
        KnownSide(Side.RIGHT, "PatientOrientation"),
        Alternative("VF", 0.41),
        "valgus priority",
    )
    findings = (found,) if outcome is Outcome.FINDINGS else ()
    each = tuple(ImageReading(i.sop_instance_uid, outcome, reason, findings) for i in images)
    return StudyReading(outcome, reason, each)


def result(content: str, kind: str = "SR", variant: str = "plain", number: int = 1) -> ledger.ResultFile:
    """A result whose UID follows from what it says."""
    uid = f"2.25.{int(hashlib.sha256(f'{content} {kind} {variant}'.encode()).hexdigest()[:20], 16)}"
    return ledger.ResultFile(
        kind=kind,
        variant=variant,
        series_instance_uid=f"{uid}.{number}"[:64],
        sop_instance_uid=uid,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.33" if kind == "SR" else "1.2.840.10008.5.1.4.1.1.7",
        relative_path=f"results/{uid}.{number}.dcm",
        sha256=hashlib.sha256(f"{uid}{number}".encode()).hexdigest(),
    )
