"""The object of `hipnode doctor --write-back`: a Secondary Capture card that says it is a test.

It carries the same equipment and coding scheme as every result, so that a PACS that routes it back
meets a node that knows it as its own. Its study is the same for every test of an installation: one
study to delete.
"""

import json
import uuid
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.uid import UID, SecondaryCaptureImageStorage

from hipnode.results import Installation, ResultIdentity, ResultKind, check_result
from hipnode.results.common import finish_object, instant_of, start_object, study_of
from hipnode.results.headers import put
from hipnode.results.identity import NAMESPACE
from hipnode.results.overlay import draw_overlay
from hipnode.results.sc import make_overlay
from hipnode.results.wording import Statement
from hipnode.status import Outcome

PATIENT_ID = "HIPNODE-TEST"
PATIENT_NAME = "HIPNODE^TEST"
ACCESSION_NUMBER = "HIPNODE-TEST"
DESCRIPTION = "hipnode test object, may be deleted"
_CARD_PX = 512

SAID = Statement(
    heading="TEST OBJECT - NOT A PATIENT",
    summary="Sent by `hipnode doctor --write-back` to see whether this archive stores what hipnode sends.",
    findings=(),
    notes=("It shows no image, holds no result, and may be deleted.",),
    algorithm="hipnode",
    provenance=("Not for diagnosis.",),
)


def build_test_object(installation: Installation, at: datetime) -> Dataset:
    """The test object, with file meta information. Raises SelfCheckFailed where it would not be fit to leave.

    at: aware; dates and times of the object, and the name of this one among the tests.
    """
    device = installation.device_uid
    patient = _patient(_uid("study", device))
    study = study_of([patient], (), "")
    now = instant_of(at, study, installation)
    identity = ResultIdentity(
        kind=ResultKind.SC,
        variant=f"max{_CARD_PX}",
        sop_class_uid=SecondaryCaptureImageStorage,
        study_uid=str(patient.StudyInstanceUID),
        series_uid=_uid("series", device),
        series_number=9999,
        sop_uid=_uid("instance", device, at.isoformat()),
        instance_number=1,
    )
    ds = start_object(study, identity, installation, now)
    picture = draw_overlay(None, (), SAID, Outcome.NOT_ANALYSED, now.words, _CARD_PX)
    make_overlay(ds, study, (), picture, SAID, now, installation, ("", ""), with_picture=False)
    put(ds, "SeriesDescription", DESCRIPTION)
    put(ds, "DerivationDescription", f"{SAID.heading}. {SAID.summary} {SAID.notes[0]}")
    finish_object(ds)
    check_result(ds)
    return ds


def _patient(study_uid: UID) -> Dataset:
    ds = Dataset()
    ds.PatientID, ds.PatientName = PATIENT_ID, PATIENT_NAME
    ds.PatientBirthDate, ds.PatientSex = "", "O"
    ds.StudyInstanceUID, ds.StudyID = study_uid, "TEST"
    ds.StudyDate, ds.StudyTime = "20000101", "000000"
    ds.AccessionNumber, ds.ReferringPhysicianName = ACCESSION_NUMBER, ""
    ds.StudyDescription = DESCRIPTION
    return ds


def _uid(*what: str) -> UID:
    name = json.dumps(["doctor", *what])
    return UID(f"2.25.{uuid.uuid5(NAMESPACE, name).int}")
