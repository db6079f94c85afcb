"""Overlays and times: what is drawn, where, and when it says it was."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from hipnode.results import (
    overlay_pixels,
    preview_png,
    result_text,
)
from hipnode.results.wording import say_image
from tests.factories import make_radiograph
from tests.readings import (
    ALGORITHM,
    ANALYSED_AT,
    DISPLACED,
    FIRST,
    READINGS,
    SECOND,
    build,
    failed,
    header_of,
    image,
    overlays,
    radiograph,
    report,
    study,
    texts,
)

# --- Times ---------------------------------------------------------------------------------------


def test_times_are_written_in_the_offset_of_the_source() -> None:
    ds = header_of(make_radiograph("DX", TimezoneOffsetFromUTC="+0900"))
    for built in build([ds], study(image(ds))):
        made = built.dataset
        assert (made.ContentDate, made.ContentTime) == ("20261121", "061008")
        assert made.TimezoneOffsetFromUTC == "+0900"
        assert (made.StudyDate, made.StudyTime) == (ds.StudyDate, ds.StudyTime)


def test_times_are_utc_and_say_so_where_the_source_states_no_offset() -> None:
    for wrong in (None, "+9999", "local"):
        ds = header_of(make_radiograph("DX", TimezoneOffsetFromUTC=wrong))
        made = report(build([ds], study(image(ds)), kinds=["SR"]))
        assert (made.ContentDate, made.ContentTime) == ("20261120", "211008")
        assert made.TimezoneOffsetFromUTC == "+0000"


def test_any_zone_of_the_same_instant_gives_the_same_bytes() -> None:
    seoul = ANALYSED_AT.astimezone(timezone(timedelta(hours=9)))
    sources, reading = READINGS["none"]
    assert [r.encode() for r in build(sources, reading, analysed_at=seoul)] == [
        r.encode() for r in build(sources, reading)
    ]
    with pytest.raises(ValueError, match="zone"):
        build(sources, reading, analysed_at=datetime(2026, 11, 20, tzinfo=UTC).replace(tzinfo=None))


# --- Overlays ------------------------------------------------------------------------------------


def test_each_read_image_has_its_overlay_and_unread_ones_share_a_card() -> None:
    third = header_of(make_radiograph("DX", instance=3))
    reading = study(image(FIRST, DISPLACED), failed(SECOND), failed(third))
    results = build([FIRST, SECOND, third], reading)
    made = overlays(results)
    assert len(made) == 2
    sources = [[i.ReferencedSOPInstanceUID for i in ds.SourceImageSequence] for ds in made]
    assert sources == [[FIRST.SOPInstanceUID], [SECOND.SOPInstanceUID, third.SOPInstanceUID]]
    assert "could not be decoded" in made[1].DerivationDescription


def test_the_overlay_of_a_film_in_a_partly_read_study_says_so() -> None:
    _, reading = READINGS["partial without"]
    said = say_image([reading.images[1]], [], ALGORITHM, reading)
    assert said.notes == ("The study was only partly analysed: 1 of 2 images could be read.",)
    whole = say_image([reading.images[1]], [], ALGORITHM, study(image(SECOND)))
    assert whole.notes == ()


def test_the_film_is_in_the_overlay_untouched_outside_the_marks() -> None:
    [ds] = overlays(build(*READINGS["none"]))
    shown = overlay_pixels(ds)
    film = radiograph(FIRST).pixels
    start = next(row for row in range(ds.Rows - 640) if np.array_equal(shown[row + 100, :512, 0], film[100]))
    assert np.array_equal(shown[start : start + 640, :512], np.repeat(film[:, :, None], 3, axis=2))


def test_marks_surround_the_box_and_leave_its_inside_alone() -> None:
    [plain] = overlays(build([FIRST], study(image(FIRST))))
    [marked] = overlays(build([FIRST], study(image(FIRST, DISPLACED))))
    film = radiograph(FIRST).pixels
    shown = overlay_pixels(marked)
    top = next(row for row in range(marked.Rows - 640) if np.array_equal(shown[row, :512, 0], film[0]))
    picture = shown[top : top + 640, :512]
    inside = picture[155:305, 106:255]
    assert np.array_equal(inside, np.repeat(film[155:305, 106:255, None], 3, axis=2))
    edge = picture[200, 94:104].astype(int)  # across the left edge at column 101.2
    coloured = np.abs(edge - (255, 176, 0)).max(axis=1) < 12
    assert 2 <= coloured.sum() <= 4
    assert overlay_pixels(plain).shape[1] == 512


@pytest.mark.parametrize(("rows", "columns"), [(2828, 2320), (300, 400), (40, 30), (900, 200)])
def test_overlays_of_any_size_are_drawn(rows: int, columns: int) -> None:
    reading = study(image(FIRST, replace(DISPLACED, box=replace(DISPLACED.box, column_max=4000.0))))
    picture = {FIRST.SOPInstanceUID: radiograph(FIRST, rows, columns)}
    [ds] = overlays(build([FIRST], reading, images=picture))
    assert ds.Columns == max(columns, 512)
    assert ds.Rows > rows


def test_a_limit_holds_for_the_longer_side_of_the_film() -> None:
    picture = {FIRST.SOPInstanceUID: radiograph(FIRST, 2828, 2320)}
    [ds] = overlays(build([FIRST], study(image(FIRST, DISPLACED)), images=picture, max_size_px=1024))
    assert ds.Columns == round(2320 * 1024 / 2828)


def test_no_patient_data_is_drawn_or_told() -> None:
    named = header_of(make_radiograph("DX", PatientName="Canary^Zebulon", PatientID="CANARY-77"))
    reading = study(image(named, DISPLACED))
    results = build([named], reading)
    plain = header_of(make_radiograph("DX"))
    assert np.array_equal(
        overlay_pixels(overlays(results)[0]), overlay_pixels(overlays(build([plain], reading))[0])
    )
    told = result_text(reading, ALGORITHM, ANALYSED_AT) + " ".join(texts(report(results)))
    assert "anary" not in told
    assert "CANARY" not in told
    assert "CANARY" not in overlays(results)[0].DerivationDescription


def test_a_preview_holds_the_same_pixels() -> None:
    [ds] = overlays(build(*READINGS["findings"]))
    png = Image.open(BytesIO(preview_png(ds)))
    assert np.array_equal(np.asarray(png), overlay_pixels(ds))


def test_sides_of_a_series_that_differ_leave_laterality_empty() -> None:
    right = header_of(make_radiograph("DX", instance=2, ImageLaterality="R"))
    both = overlays(build([FIRST, right], study(image(FIRST), image(right))))
    assert [ds.Laterality for ds in both] == ["", ""]
    [one] = overlays(build([FIRST], study(image(FIRST))))
    assert (one.BodyPartExamined, one.Laterality) == ("HIP", "L")
    pelvis = header_of(
        make_radiograph("DX", BodyPartExamined="PELVIS", AnatomicRegionSequence=None, ImageLaterality="U")
    )
    [of_pelvis] = overlays(build([pelvis], study(image(pelvis))))
    assert of_pelvis.BodyPartExamined == "PELVIS"
    assert "Laterality" not in of_pelvis
