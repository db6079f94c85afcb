"""analyse(): images of studies in, readings out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hipnode.errors import ImageRejected, SpoolMissing
from hipnode.findings import Detections, Reason
from hipnode.images import Radiograph
from hipnode.packages import ModelPackage
from hipnode.status import Outcome, ReasonCode
from tests.pipeline import FakeDetector, make_package
from workers.analysis import DetectorFailed, StudyImage, StudyImages, analyse, analyse_each


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return make_package(tmp_path)


def radiograph(uid: str = "1.2", view: str = "AP", body_part: str = "HIP", rows: int = 40) -> Radiograph:
    return Radiograph(
        pixels=np.full((rows, 30), 100, np.uint8),
        sop_instance_uid=uid,
        side=None,
        patient_orientation=None,
        body_part=body_part,
        view=view,
    )


def study(
    *pictures: Radiograph | ImageRejected | SpoolMissing, flags: tuple[Reason, ...] = ()
) -> StudyImages:
    return StudyImages(tuple(StudyImage(f"1.2.{n}", one, flags) for n, one in enumerate(pictures)))


def test_nothing_to_look_at_asks_nobody(package: ModelPackage) -> None:
    detector = FakeDetector()
    assert analyse([], detector, package) == []
    assert detector.calls == []


def test_a_batch_of_studies_is_one_call_and_each_study_gets_its_own_answer(package: ModelPackage) -> None:
    detector = FakeDetector()
    readings = analyse([study(radiograph(), radiograph(rows=80)), study(radiograph())], detector, package)
    assert detector.calls == [3]
    assert [one.outcome for one in readings] == [Outcome.FINDINGS, Outcome.FINDINGS]
    assert [[i.sop_instance_uid for i in one.images] for one in readings] == [["1.2.0", "1.2.1"], ["1.2.0"]]
    assert readings[0].images[1].findings[0].box.row_max == pytest.approx(40)
    assert readings[0].images[0].findings[0].box.row_max == pytest.approx(20)


def test_below_the_threshold_nothing_is_found_and_the_candidate_is_kept(package: ModelPackage) -> None:
    (reading,) = analyse([study(radiograph())], FakeDetector(score=0.2), package)
    assert reading.outcome is Outcome.NONE
    assert len(reading.images[0].candidates) == 1


@pytest.mark.parametrize(
    "trouble",
    [ImageRejected(ReasonCode.DECODE_FAILED), SpoolMissing(), ImageRejected(ReasonCode.DECODE_LIMIT)],
)
def test_an_image_without_a_picture_is_an_error_and_the_other_is_read(
    package: ModelPackage, trouble: ImageRejected
) -> None:
    detector = FakeDetector()
    (reading,) = analyse([study(trouble, radiograph())], detector, package)
    assert detector.calls == [1]
    assert reading.outcome is Outcome.PARTIAL
    assert [i.outcome for i in reading.images] == [Outcome.ERROR, Outcome.FINDINGS]
    assert reading.images[0].reason == Reason(trouble.code, trouble.sentence)


def test_a_study_without_any_picture_is_an_error_and_nobody_is_asked(package: ModelPackage) -> None:
    detector = FakeDetector()
    (reading,) = analyse([study(ImageRejected(ReasonCode.PIXELS_MISSING))], detector, package)
    assert (reading.outcome, reading.reason) == (Outcome.ERROR, Reason.of(ReasonCode.PIXELS_MISSING))
    assert detector.calls == []


def test_an_image_the_package_does_not_read_is_not_analysed(package: ModelPackage) -> None:
    detector = FakeDetector()
    (reading,) = analyse([study(radiograph(view="LL"))], detector, package)
    assert (reading.outcome, detector.calls) == (Outcome.NOT_ANALYSED, [])
    assert reading.reason is not None
    assert reading.reason.code is ReasonCode.PACKAGE_VETO


def test_flags_of_selection_reach_the_reading(package: ModelPackage) -> None:
    flags = (Reason.of(ReasonCode.VIEW_UNCLEAR),)
    (reading,) = analyse([study(radiograph(), flags=flags)], FakeDetector(), package)
    assert reading.images[0].flags == flags


class Choking(FakeDetector):
    """Fails on any batch that holds an image of 13 rows."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        if any(len(image) == 13 for image in images):
            raise RuntimeError("PatientName must not be logged")
        return super().detect(images)


def test_one_study_the_detector_fails_on_does_not_take_the_others_with_it(package: ModelPackage) -> None:
    batch = [study(radiograph()), study(radiograph(rows=13)), study(radiograph())]
    first, second, third = analyse_each(batch, Choking(), package)
    assert isinstance(second, DetectorFailed)
    assert str(second) == "RuntimeError"
    for one in (first, third):
        assert not isinstance(one, DetectorFailed)
        assert one.outcome is Outcome.FINDINGS


def test_a_single_study_is_not_tried_twice(package: ModelPackage) -> None:
    detector = Choking()
    (answer,) = analyse_each([study(radiograph(rows=13))], detector, package)
    assert isinstance(answer, DetectorFailed)
