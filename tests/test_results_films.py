"""Results beside real films, and beside headers damaged at random."""

import random
import re
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import RE_VALID_UID

from hipnode.errors import SelfCheckFailed
from hipnode.findings import ImageReading, Reason, StudyReading, combine
from hipnode.images import Radiograph
from hipnode.results import build_results, is_own_output, overlay_pixels
from hipnode.results.headers import SourceHeader
from hipnode.status import Outcome, ReasonCode
from tests.dicom_checks import check_results
from tests.factories import encoded, make_radiograph
from tests.readings import (
    ALGORITHM,
    AMBIGUOUS,
    ANALYSED_AT,
    DISPLACED,
    INSTALLATION,
    image,
    radiograph_of,
    study,
)


@pytest.mark.films
def test_results_of_real_films_are_valid(films: Path, tmp_path: Path) -> None:
    judged = 0
    for path in sorted(films.glob("*.dcm")):
        source = dcmread(path, stop_before_pixels=True)
        header = SourceHeader(source)
        uid = header.text("SOPInstanceUID")
        for number, findings in enumerate(((DISPLACED,), ())):
            outcome = Outcome.FINDINGS if findings else Outcome.NONE
            built = build_results(
                [source],
                combine((ImageReading(uid, outcome, None, findings),)),
                ALGORITHM,
                INSTALLATION,
                1,
                ANALYSED_AT,
                images={uid: radiograph_of(uid)},
            )
            assert not is_own_output(source)
            # One film has components with leading zeros in its UIDs: carried as they are, and dciodvfy objects.
            if re.match(RE_VALID_UID, uid):
                folder = tmp_path / f"{path.stem}-{number}"
                folder.mkdir()
                check_results(built, folder)
                judged += 1
    assert judged >= 10


@pytest.mark.films
def test_marks_on_real_films_show_and_cover_no_box(films: Path) -> None:
    ds = make_radiograph("CR", BodyPartExamined="PELVIS")
    for path in sorted((films / "pxr150_dev").glob("*.png"))[:6]:
        pixels = np.array(Image.open(path).convert("L"))
        [built] = build_results(
            [ds],
            study(image(ds, DISPLACED, AMBIGUOUS)),
            ALGORITHM,
            INSTALLATION,
            1,
            ANALYSED_AT,
            images={ds.SOPInstanceUID: Radiograph(pixels, ds.SOPInstanceUID)},
            kinds=["SC"],
        )
        shown = overlay_pixels(built.dataset)
        rows, columns = pixels.shape
        top = next(
            row for row in range(len(shown) - rows) if np.array_equal(shown[row + rows - 1, :, 0], pixels[-1])
        )
        picture = shown[top : top + rows, :columns]
        for finding in (DISPLACED, AMBIGUOUS):
            inside = (
                slice(round(finding.box.row_min) + 4, round(finding.box.row_max) - 4),
                slice(round(finding.box.column_min) + 4, round(finding.box.column_max) - 4),
            )
            assert np.array_equal(picture[inside], np.repeat(pixels[inside][:, :, None], 3, axis=2))


def test_a_notice_is_built_from_a_damaged_header_or_refused_for_its_study_uid() -> None:
    """Whatever the bytes of a header are, nothing else stops the failure notice."""
    ds = make_radiograph("CR", PatientName="Yamada^Tarou=山田^太郎", SpecificCharacterSet="ISO_IR 192")
    del ds.PixelData
    sound = encoded(ds)
    dice = random.Random(7)
    notice = StudyReading(Outcome.ERROR, Reason.of(ReasonCode.DECODE_FAILED), ())
    built, refusals = 0, list[str]()
    for _ in range(150):
        damaged = bytearray(sound)
        for _ in range(dice.randrange(1, 12)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, on reading and on writing what it dislikes
            try:
                source = dcmread(BytesIO(b"\0" * 128 + b"DICM" + damaged), force=True)
            except Exception:  # noqa: BLE001, S112  # what cannot be parsed at all is the reader's business
                continue
            try:
                results = build_results([source], notice, None, INSTALLATION, 1, ANALYSED_AT)
                assert all(result.encode() for result in results)
                built += 1
            except SelfCheckFailed as refusal:
                refusals.append(refusal.sentence)
    assert built > 30
    assert all("StudyInstanceUID" in sentence for sentence in refusals)
