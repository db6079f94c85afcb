"""Instances: what arrived, and which analysis it opens."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

from hipnode.findings import Reason
from hipnode.ledger.events import note
from hipnode.ledger.mover import Before, advance
from hipnode.ledger.records import Image, ReceivedInstance, Recorded
from hipnode.status import AnalysisStatus, ReasonCode
from hipnode.tables import Analysis, AnalysisImage, Instance, Result, Role, Study


def record_instance(
    session: Session,
    received: ReceivedInstance,
    now: datetime,
    on_disk: Callable[[str], bool] = lambda _path: True,
) -> Recorded:
    """Put a received instance into the books, and open what is due because of it, in this transaction.

    The same bytes again change nothing. Other bytes under a known SOP Instance UID are kept as a
    flagged revision and open nothing. A new source image joins the analysis still RECEIVING, takes one
    that waits unclaimed back to RECEIVING, or opens the next number.
    on_disk: whether a file of the spool (relative path) is there; a repeat brings back a lost one.
    Concurrent calls for one study wait for each other at its row.
    """
    study_id = _study(session, received, now)
    earlier = session.execute(
        select(
            Instance.id,
            Instance.study_id,
            Instance.sha256,
            Instance.revision,
            Instance.role,
            Instance.relative_path,
            Instance.reason_code,
            Instance.calling_ae_title,
        ).where(Instance.sop_instance_uid == received.sop_instance_uid)
    ).all()
    same = next((row for row in earlier if row.sha256 == received.sha256), None)
    if same is not None:
        return _again(session, same, received, now, on_disk)
    sources = [row for row in earlier if row.role is Role.SOURCE]
    conflict = bool(sources) and received.role == "source"
    reason_code = ReasonCode.REVISION_CONFLICT if conflict else received.reason_code
    instance = Instance(
        study_id=study_id,
        sop_instance_uid=received.sop_instance_uid,
        revision=len(earlier) + 1,
        series_instance_uid=received.series_instance_uid,
        sop_class_uid=received.sop_class_uid,
        transfer_syntax_uid=received.transfer_syntax_uid,
        sha256=received.sha256,
        size_bytes=received.size_bytes,
        relative_path=received.relative_path,
        role=Role(received.role),
        reason_code=reason_code,
        calling_ae_title=fit(received.calling_ae_title, 16),
        peer_address=fit(received.peer_address, 64),
        received_at=now,
    )
    session.add(instance)
    session.flush()
    if conflict:
        note(
            session,
            now,
            instance.calling_ae_title,
            "instance",
            study_id=study_id,
            became=f"revision {instance.revision}",
            why=Reason.of(ReasonCode.REVISION_CONFLICT),
        )
    if received.role == "source":
        here = [row for row in sources if row.study_id == study_id]
        if not conflict:
            opens = True
        elif here:  # opens nothing, unless it comes in place of files that are lost
            opens = all(row.reason_code is ReasonCode.SPOOL_MISSING for row in here)
        else:
            # Known under another study: results would carry that study's identity, so none are made; an
            # analysis is opened only where this study would otherwise have no end (the tick fails it).
            opens = not _has_analysis(session, study_id)
        _due(session, study_id, instance.calling_ae_title, now, opens)
    return Recorded(instance.id, study_id, True, instance.revision)


def _again(
    session: Session,
    same: Any,
    received: ReceivedInstance,
    now: datetime,
    on_disk: Callable[[str], bool],
) -> Recorded:
    mine = received.relative_path
    lost = mine is not None and (
        same.relative_path is None or (mine != same.relative_path and not on_disk(same.relative_path))
    )
    lost = lost or (mine is not None and same.reason_code is ReasonCode.SPOOL_MISSING)
    if not lost:
        if not same.calling_ae_title:  # found in the spool without a row; now its sender is known
            sender = {"calling_ae_title": fit(received.calling_ae_title, 16)}
            sender |= {"peer_address": fit(received.peer_address, 64)}
            session.execute(update(Instance).where(Instance.id == same.id).values(sender))
            if _went_nowhere(session, same.study_id):  # nobody knew whose study it was: now a place may
                _due(session, same.study_id, sender["calling_ae_title"], now, opens=True)
        spare = mine if mine != same.relative_path else None
        return Recorded(same.id, same.study_id, False, same.revision, spare)
    code = ReasonCode.REVISION_CONFLICT if same.revision > 1 else None
    session.execute(
        update(Instance)
        .where(Instance.id == same.id)
        .values(relative_path=mine, role=Role(received.role), reason_code=code)
    )
    who = fit(received.calling_ae_title, 16)
    note(
        session, now, who, "instance", study_id=same.study_id, became="restored", why="its file had been lost"
    )
    if received.role == "source":
        _due(session, same.study_id, who, now, opens=True)
    return Recorded(same.id, same.study_id, True, same.revision)


def fit(text: str, length: int) -> str:
    """`text` as a column of `length` characters takes it: no NUL (PostgreSQL refuses it), cut to length."""
    return text.replace("\0", "")[:length]


def _study(session: Session, received: ReceivedInstance, now: datetime) -> int:
    """The study's row id, made where it is new, and locked until the transaction ends."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    accession_number, patient_id = fit(received.accession_number, 64), fit(received.patient_id, 64)
    values = {
        "study_instance_uid": received.study_instance_uid,
        "accession_number": accession_number,
        "patient_id": patient_id,
        "received_at": now,
        "updated_at": now,
    }
    locked = (
        select(Study.id, Study.accession_number, Study.patient_id)
        .where(Study.study_instance_uid == received.study_instance_uid)
        .with_for_update(key_share=True)
    )
    row = session.execute(locked).one_or_none()
    if row is None:
        session.execute(insert(Study).values(values).on_conflict_do_nothing())
        row = session.execute(locked).one()
    changes: dict[str, Any] = {"updated_at": now}
    if received.role == "source":  # demographics come from the latest image
        if row.accession_number != accession_number and accession_number:
            changes["accession_number"] = accession_number
        if row.patient_id != patient_id:
            changes["patient_id"] = patient_id
            note(
                session,
                now,
                fit(received.calling_ae_title, 16),
                "study",
                study_id=row.id,
                why="another Patient ID",
            )
    session.execute(update(Study).where(Study.id == row.id).values(changes))
    return int(row.id)


def _has_analysis(session: Session, study_id: int) -> bool:
    return session.scalar(select(Analysis.id).where(Analysis.study_id == study_id).limit(1)) is not None


def _went_nowhere(session: Session, study_id: int) -> bool:
    latest = select(Analysis.reason_code).where(Analysis.study_id == study_id)
    latest = latest.order_by(Analysis.number.desc(), Analysis.id.desc()).limit(1)
    return session.scalar(latest) is ReasonCode.NO_DESTINATION


def _due(session: Session, study_id: int, who: str, now: datetime, opens: bool) -> None:
    """Make sure an analysis RECEIVING waits for this image; `opens` False only prolongs one that is there."""
    waiting = session.execute(
        select(Analysis.id, Analysis.status, Analysis.fence, Analysis.number)
        .where(
            Analysis.study_id == study_id,
            (Analysis.status == AnalysisStatus.RECEIVING)
            | (
                (Analysis.status == AnalysisStatus.QUEUED)
                & (Analysis.attempts == 0)
                & (Analysis.notice_attempts == 0)
            ),
        )
        .with_for_update(key_share=True)
    ).all()
    receiving = [row for row in waiting if row.status is AnalysisStatus.RECEIVING]
    if receiving:
        # the new fence stops a tick that is closing the study without this image
        session.execute(
            update(Analysis)
            .where(Analysis.id == receiving[0].id)
            .values(last_instance_at=now, fence=receiving[0].fence + 1)
        )
    elif opens and len(waiting) == 1 and not _has_sibling(session, study_id, waiting[0]):
        row = waiting[0]
        again: dict[str, Any] = {
            "receiving_since": now,
            "last_instance_at": now,
            "queued_at": None,
            "due_at": None,
        }
        again |= {"package_id": None, "package_sha256": None, "fence": row.fence + 1}
        holder = Before(row.id, row.fence, who)
        advance(session, holder, AnalysisStatus.RECEIVING, now, why="a late image", values=again)
        session.execute(delete(AnalysisImage).where(AnalysisImage.analysis_id == row.id))
    elif opens:
        open_analysis(session, study_id, who, now)


def _has_sibling(session: Session, study_id: int, row: Any) -> bool:
    """Whether another package looks as well, under the same number: then both go on with what they have."""
    other = (Analysis.study_id == study_id, Analysis.number == row.number, Analysis.id != row.id)
    return session.scalar(select(Analysis.id).where(*other).limit(1)) is not None


def open_analysis(
    session: Session,
    study_id: int,
    who: str,
    now: datetime,
    asked_by: str | None = None,
    why: str | None = None,
) -> tuple[int, int]:
    """Open the study's next analysis, RECEIVING. Its id and number. The caller holds the study's row."""
    last = session.scalar(select(func.max(Analysis.number)).where(Analysis.study_id == study_id)) or 0
    analysis = Analysis(
        study_id=study_id,
        number=last + 1,
        status=AnalysisStatus.RECEIVING,
        receiving_since=now,
        last_instance_at=now,
        asked_by=asked_by,
        created_at=now,
        updated_at=now,
    )
    session.add(analysis)
    session.flush()
    note(
        session,
        now,
        who,
        "analysis",
        study_id=study_id,
        analysis_id=analysis.id,
        became=AnalysisStatus.RECEIVING,
        why=why,
    )
    return analysis.id, analysis.number


def known_result_uid(session: Session, sop_instance_uid: str, series_instance_uid: str) -> bool:
    """Whether we made the object (or its series): then it is not to become input."""
    made = (Result.sop_instance_uid == sop_instance_uid) | (Result.series_instance_uid == series_instance_uid)
    return session.scalar(select(Result.id).where(made).limit(1)) is not None


def last_sender(session: Session, study_id: int) -> tuple[str, str]:
    """(calling AE title, peer address) of the study's last source image whose sender is known, else ("", "")."""
    row = session.execute(
        select(Instance.calling_ae_title, Instance.peer_address)
        .where(Instance.study_id == study_id, Instance.role == Role.SOURCE, Instance.peer_address != "")
        .order_by(Instance.id.desc())
        .limit(1)
    ).one_or_none()
    return (row[0], row[1]) if row else ("", "")


def sources_of_study(session: Session, study_id: int) -> list[Image]:
    """The study's source images, one per SOP Instance UID in order of first arrival: the latest revision.

    Left out are UIDs that arrived first under another study. An image of which there are several
    revisions carries the flag REVISION_CONFLICT. `missing`: its file is known to be lost.
    """
    foreign = aliased(Instance)
    first_elsewhere = (
        select(foreign.id)
        .where(
            foreign.sop_instance_uid == Instance.sop_instance_uid,
            foreign.role == Role.SOURCE,
            foreign.study_id != Instance.study_id,
            foreign.revision < Instance.revision,
        )
        .exists()
    )
    rows = session.execute(
        select(
            Instance.id,
            Instance.sop_instance_uid,
            Instance.relative_path,
            Instance.sha256,
            Instance.reason_code,
        )
        .where(Instance.study_id == study_id, Instance.role == Role.SOURCE, ~first_elsewhere)
        .order_by(Instance.id)
    )
    latest: dict[str, Image] = {}
    for id_, uid, path, sha256, reason_code in rows:
        flags = (Reason.of(ReasonCode.REVISION_CONFLICT),) if uid in latest else ()
        missing = reason_code is ReasonCode.SPOOL_MISSING or path is None
        if missing and uid in latest:
            continue  # an earlier revision that is there serves better
        latest[uid] = Image(id_, uid, path or "", sha256, flags, missing)
    return list(latest.values())


def mark_missing(session: Session, instance_id: int, who: str, now: datetime) -> None:
    """Note that an instance's file is lost or changed; the same bytes sent again bring it back."""
    study_id = session.scalar(
        update(Instance)
        .where(Instance.id == instance_id, Instance.reason_code.is_distinct_from(ReasonCode.SPOOL_MISSING))
        .values(reason_code=ReasonCode.SPOOL_MISSING)
        .returning(Instance.study_id)
    )
    if study_id is not None:
        reason = Reason.of(ReasonCode.SPOOL_MISSING)
        note(
            session,
            now,
            who,
            "instance",
            study_id=study_id,
            became=f"instance {instance_id} lost",
            why=reason,
        )


def mark_found(session: Session, instance_id: int, who: str, now: datetime) -> None:
    """Note that a file marked as lost is there after all, whole."""
    lost = (Instance.id == instance_id, Instance.reason_code == ReasonCode.SPOOL_MISSING)
    row = session.execute(
        update(Instance).where(*lost).values(reason_code=None).returning(Instance.study_id, Instance.revision)
    ).one_or_none()
    if row is None:
        return
    if row.revision > 1:
        conflict = {"reason_code": ReasonCode.REVISION_CONFLICT}
        session.execute(update(Instance).where(Instance.id == instance_id).values(conflict))
    note(session, now, who, "instance", study_id=row.study_id, became=f"instance {instance_id} found")


@dataclass(frozen=True)
class KeptFile:
    """A file the books say is in the spool. instance_id None: it is a result."""

    relative_path: str
    sha256: str
    instance_id: int | None
    marked_missing: bool


def kept_files(session: Session) -> Iterator[KeptFile]:
    """Every file the books say is in the spool."""
    rows = session.execute(
        select(Instance.relative_path, Instance.sha256, Instance.id, Instance.reason_code)
        .where(Instance.relative_path.is_not(None))
        .execution_options(yield_per=1000)
    )
    for path, sha256, id_, reason_code in rows:
        yield KeptFile(str(path), sha256, id_, reason_code is ReasonCode.SPOOL_MISSING)
    results = select(Result.relative_path, Result.sha256).execution_options(yield_per=1000)
    for path, sha256 in session.execute(results):
        yield KeptFile(path, sha256, None, False)
