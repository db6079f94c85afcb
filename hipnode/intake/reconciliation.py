"""Spool and ledger agree before the SCP listens: what a crash left between the two is put right."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.orm import Session, sessionmaker

from hipnode import ledger
from hipnode.errors import OutOfResources, SpoolMissing, StoreRefused
from hipnode.identity import read_identity
from hipnode.ledger import ReceivedInstance
from hipnode.spool import Spool, data_set_sha256

logger = structlog.get_logger(__name__)

_ORPHAN_RESULT_S = 3600.0


@dataclass(frozen=True)
class Reconciled:
    """What `reconcile` did: files put into the books, doubles and orphans removed, lost and found ones."""

    adopted: int = 0
    removed: int = 0
    quarantined: int = 0
    missing: int = 0
    found: int = 0


def reconcile(
    sessions: sessionmaker[Session], spool: Spool, now: datetime, settled_before: datetime | None = None
) -> Reconciled:
    """Make spool and ledger agree, before the SCP listens.

    A file without a row was kept but never acknowledged: it is put into the books, or into quarantine
    when it cannot be read. A row without a file is marked SPOOL_MISSING; sent again, it comes back.
    A result without a row can be built again and is removed after an hour.
    settled_before: files written later are left alone (another node may be writing them); default `now`.
    """
    before = (settled_before or now).timestamp()
    with ledger.reading(sessions) as session:
        kept = {file.relative_path: file for file in ledger.kept_files(session)}
    adopted = removed = quarantined = missing = found = 0
    for path in spool.files("instances"):
        if path not in kept and _written(spool, path) <= before:
            what = _adopt(sessions, spool, path, now)
            adopted, removed = adopted + (what == "adopted"), removed + (what == "removed")
            quarantined += what == "quarantined"
    for path in spool.files("results"):
        if path not in kept and _written(spool, path) <= before - _ORPHAN_RESULT_S:
            spool.remove(path)
            removed += 1
    for file in kept.values():
        if file.instance_id is not None and (noted := _agree(spool, file)):
            with ledger.transaction(sessions) as session:
                noted(session, file.instance_id, "reconcile", now)
            missing, found = missing + (noted is ledger.mark_missing), found + (noted is ledger.mark_found)
    done = Reconciled(adopted, removed, quarantined, missing, found)
    if done != Reconciled():
        logger.warning("spool.reconciled", **done.__dict__)
    return done


def _agree(spool: Spool, file: ledger.KeptFile) -> Callable[[Session, int, str, datetime], None] | None:
    """What is to be noted so that the books agree with the disk; None when they do."""
    if not file.marked_missing:
        return None if spool.holds(file.relative_path) else ledger.mark_missing
    try:
        spool.verify(file.relative_path, file.sha256)
    except SpoolMissing:
        return None
    return ledger.mark_found


def _adopt(sessions: sessionmaker[Session], spool: Spool, path: str, now: datetime) -> str:
    try:
        with spool.data_set(path) as (data_set, transfer_syntax_uid):
            identity, size_bytes = read_identity(data_set, transfer_syntax_uid), len(data_set)
    except (StoreRefused, SpoolMissing):
        return _quarantine(spool, path)
    received = ReceivedInstance(
        study_instance_uid=identity.study_instance_uid,
        series_instance_uid=identity.series_instance_uid,
        sop_instance_uid=identity.sop_instance_uid,
        sop_class_uid=identity.sop_class_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        patient_id=identity.patient_id,
        accession_number=identity.accession_number,
        calling_ae_title="",  # the sender had no answer and comes again; then it is known
        peer_address="",
        sha256=data_set_sha256(spool.path(path)),
        size_bytes=size_bytes,
        relative_path=path,
    )
    with ledger.transaction(sessions) as session:
        recorded = ledger.record_instance(session, received, now, spool.holds)
    if recorded.spare is not None:
        spool.remove(recorded.spare)
        return "removed"
    return "adopted"


def _quarantine(spool: Spool, path: str) -> str:
    try:
        spool.quarantine(spool.path(path).read_bytes(), "found in the spool without a row, and not readable")
        spool.remove(path)
    except (OSError, OutOfResources) as error:  # no room now, or no file: studies come in all the same
        logger.warning(
            "file.left", why="it has no row, and no room elsewhere", path=path, error=type(error).__name__
        )
        return "left"
    return "quarantined"


def _written(spool: Spool, path: str) -> float:
    try:
        return spool.path(path).stat().st_mtime
    except FileNotFoundError:  # another node was quicker
        return float("inf")
