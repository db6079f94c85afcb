"""Phantoms: same seed same pixels, boxes where the fracture is, nothing else that tells the class."""

import hashlib
import json
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread

torch = pytest.importorskip("torch")

from hipnode.evaluation.films.data import read_data  # noqa: E402
from hipnode.images import to_radiograph  # noqa: E402
from tests.dicom_checks import dciodvfy  # noqa: E402
from workers.phantom.dataset import (  # noqa: E402
    SEEDS,
    PoolError,
    PoolRequest,
    known_indices,
    make_one,
    prepare_process,
    write_demo_studies,
    write_pool,
)
from workers.phantom.dicom import MANUFACTURER, to_dicom  # noqa: E402
from workers.phantom.fracture import Cut, FractureOutcome, draw_break, draw_leg, rotation  # noqa: E402
from workers.phantom.generate import MIX, fracture_box, generate, outcome_of  # noqa: E402
from workers.phantom.random import stream  # noqa: E402

BROKEN = [o for o in FractureOutcome if o is not FractureOutcome.NONE]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    prepare_process()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def phantoms():
    return {outcome: generate(77, 3, outcome) for outcome in FractureOutcome}


def _digest(phantom):
    return hashlib.sha256(phantom.pixels.tobytes()).hexdigest()


def test_the_same_seed_gives_the_same_pixels_in_one_thread_and_in_two(phantoms):
    torch.set_num_threads(2)
    again = generate(77, 3, FractureOutcome.UF)
    assert _digest(again) == _digest(phantoms[FractureOutcome.UF])
    assert again.record() == phantoms[FractureOutcome.UF].record()


def test_another_index_or_seed_gives_another_film(phantoms):
    digests = {_digest(generate(77, 4, FractureOutcome.NONE)), _digest(generate(78, 3, FractureOutcome.NONE))}
    assert len(digests | {_digest(phantoms[FractureOutcome.NONE])}) == 3


def test_a_phantom_without_fracture_has_no_box_and_no_visibility(phantoms):
    plain = phantoms[FractureOutcome.NONE]
    assert plain.boxes.shape == (0, 4)
    assert plain.visibility == 0.0


@pytest.mark.parametrize("outcome", BROKEN)
def test_a_fracture_has_one_box_inside_the_picture_that_is_seen(phantoms, outcome):
    phantom = phantoms[outcome]
    rows, columns = phantom.pixels.shape
    assert (rows, columns) == (640, 512)
    left, top, right, bottom = phantom.boxes[0]
    assert 0 <= left < right <= columns
    assert 0 <= top < bottom <= rows
    assert phantom.visibility > 25.0


@pytest.mark.parametrize("outcome", BROKEN)
def test_nothing_but_the_fracture_and_what_it_forces_depends_on_the_outcome(phantoms, outcome):
    plain, broken = phantoms[FractureOutcome.NONE].record(), phantoms[outcome].record()
    forced = {"fracture", "attempt", "vf_df_border", "tone"}  # tone: percentiles of the film
    alike = [{k: v for k, v in one["parameters"].items() if k not in forced} for one in (plain, broken)]
    assert alike[0] == alike[1]
    assert (plain["side"], plain["pixel_mm"]) == (broken["side"], broken["pixel_mm"])


@pytest.mark.parametrize("outcome", BROKEN)
def test_far_from_the_femur_the_film_is_the_same_with_and_without_fracture(phantoms, outcome):
    plain, broken = phantoms[FractureOutcome.NONE], phantoms[outcome]
    head, symphysis = plain.key_points["head_centre"], plain.key_points["symphysis"]
    top, left = int(max(head[1] - 130, 0)), int(max(min(head[0], symphysis[0]) - 5, 0))
    window = (slice(max(top - 40, 0), top + 20), slice(left, left + 60))
    difference = np.abs(plain.picture[window] - broken.picture[window])
    # tone follows the film's percentiles, as on a real system, so a little remains
    assert float(np.median(difference)) < 0.03


@pytest.mark.parametrize("outcome", BROKEN)
def test_the_box_holds_the_fracture_zone_with_its_margin(phantoms, outcome):
    phantom = phantoms[outcome]
    plain = phantoms[FractureOutcome.NONE]
    left, top, right, bottom = (int(v) for v in phantom.boxes[0])
    change = np.abs(phantom.picture - plain.picture)
    inside = change[top:bottom, left:right].mean()
    assert inside > 2.0 * np.median(change)
    wide = generate(77, 3, outcome, box_margin_mm=13.0).boxes[0]
    step = 5.0 * phantom.magnification / phantom.pixel_mm
    assert phantom.boxes[0][0] - wide[0] == pytest.approx(min(step, phantom.boxes[0][0]), abs=0.5)


def test_the_same_film_can_be_had_at_twice_the_resolution(phantoms):
    fine = generate(77, 3, FractureOutcome.DF, columns=1024)
    assert fine.pixels.shape == (1280, 1024)
    assert fine.boxes[0] / 2 == pytest.approx(phantoms[FractureOutcome.DF].boxes[0], abs=0.6)
    shrunk = fine.picture.reshape(640, 2, 512, 2).mean((1, 3))
    assert np.corrcoef(shrunk.ravel(), phantoms[FractureOutcome.DF].picture.ravel())[0, 1] > 0.97


def test_outcomes_come_in_their_mix_and_legs_lie_outside_in_30_percent():
    drawn = [outcome_of(5, index).value for index in range(3000)]
    for name, share in MIX.items():
        assert drawn.count(name) / 3000 == pytest.approx(share, abs=0.03)
    legs = [draw_leg(stream(5, index, "leg")).external_rotation > 25.0 for index in range(3000)]
    assert sum(legs) / 3000 == pytest.approx(0.30, abs=0.03)


def test_some_valgus_and_displaced_fractures_lie_near_the_border_and_say_so():
    from workers.phantom.anatomy import draw_femur

    femur, leg = draw_femur(stream(5, 0, "femur")), draw_leg(stream(5, 0, "leg"))
    for outcome in (FractureOutcome.VF, FractureOutcome.DF):
        broken = [draw_break(stream(6, k, "f"), femur, leg, outcome) for k in range(400)]
        border = [b for b in broken if "border" in b.subtype]
        assert 0.04 < len(border) / 400 < 0.13
        assert all(b.border_margin is not None and b.border_margin < 0.7 for b in border)


def test_unstable_fractures_hold_both_patterns_and_a_free_lesser_trochanter():
    from workers.phantom.anatomy import draw_femur

    femur, leg = draw_femur(stream(5, 1, "femur")), draw_leg(stream(5, 1, "leg"))
    broken = [draw_break(stream(7, k, "f"), femur, leg, FractureOutcome.UF) for k in range(200)]
    assert {b.subtype for b in broken} == {"A2", "A3"}
    for b in broken:
        assert ("lesser" in {p.name for p in b.pieces}) == (b.subtype == "A2")
        for piece in b.pieces:
            assert np.linalg.det(piece.turn) == pytest.approx(1.0)


def test_a_rough_cut_passes_through_its_own_points():
    cut = Cut((10.0, -8.0, 0.0), (0.8, -0.6, 0.1), ((1.0, 0.3, 0.2, 0.5), (0.5, 0.9, -0.1, 1.0)))
    points = torch.from_numpy(cut.points(20.0, 4.0)).float()
    distance = cut((points[:, 0], points[:, 1], points[:, 2]))
    assert float(distance.abs().max()) < 1e-3
    assert rotation((0, 0, 1), 90) @ np.array([1.0, 0, 0]) == pytest.approx([0, 1, 0], abs=1e-9)


def test_a_pool_goes_on_where_it_stopped(tmp_path):
    request = PoolRequest(tmp_path, 2, 901, columns=256)
    seen = []
    assert write_pool(request, workers=1, progress=lambda done, count: seen.append((done, count))) == 2
    assert seen == [(0, 2), (1, 2), (2, 2)]
    listing = tmp_path / "labels.jsonl"
    first = listing.read_text()
    listing.write_text(first + '{"file": "torn')
    assert write_pool(PoolRequest(tmp_path, 3, 901, columns=256), workers=1) == 1
    lines = [json.loads(line) for line in listing.read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert listing.read_text().startswith(first)
    for line in lines:
        assert (tmp_path / line["file"]).is_file()
        assert (line["class"] == "none") == (line["boxes"] == [])
    assert known_indices(tmp_path, 902) == set()


def test_a_pool_is_a_data_folder_of_the_evaluation(tmp_path):
    request = PoolRequest(tmp_path, 3, 901, dicom=True, split="test", columns=256)
    records = [make_one(request, index) for index in range(3)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    data = read_data(tmp_path, ("VF", "DF", "SF", "UF"))
    assert len({record["class"] for record in records}) > 1
    for record, label, unit in zip(records, data.labels, data.units, strict=True):
        film = dcmread(unit.file)
        assert (label.classes or ("none",)) == (record["class"],)
        assert (label.image_uid, label.hip) == (film.SOPInstanceUID, film.ImageLaterality)
        assert (label.size, label.split) == ((film.Rows, film.Columns), "test")
        assert [list(box.corners) for box in label.boxes] == record["boxes"]
        seen = record["visibility"] * 0.143 / record["pixel_mm"]
        known = "none" if not label.classes else "subtle" if seen < 200 else "obvious"
        assert label.strata.get("difficulty", "none") == known
    assert len({label.patient_id for label in data.labels}) == 3


def test_a_pool_whose_listing_is_no_listing_is_refused_by_line(tmp_path):
    (tmp_path / "labels.jsonl").write_text("no json\n")
    with pytest.raises(PoolError, match=r"labels\.jsonl:1"):
        known_indices(tmp_path, 1)


def test_training_validation_test_and_demo_take_different_seeds():
    assert len(set(SEEDS.values())) == len(SEEDS)


@pytest.mark.parametrize("index", range(6))
def test_a_phantom_as_dicom_is_the_film_it_was_made_from(index):
    phantom = generate(55, index, columns=256)
    buffer = BytesIO()
    to_dicom(phantom).save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    ds = dcmread(buffer)
    radiograph = to_radiograph(ds, ds.pixel_array)
    # VOI window there and back: one grey level of 255
    assert np.abs(radiograph.pixels.astype(int) - phantom.pixels.astype(int)).max() <= 1
    assert ds.BodyPartExamined == "HIP"
    assert ds.Manufacturer == MANUFACTURER
    assert "hipnode" not in ds.Manufacturer.lower()
    assert ds.PatientID.startswith("SYN-")
    assert radiograph.side is not None
    assert radiograph.side.side.value == phantom.side


def test_the_header_does_not_know_the_outcome():
    headers = []
    for outcome in (FractureOutcome.NONE, FractureOutcome.DF):
        ds = to_dicom(generate(56, 1, outcome, columns=256))
        del ds.PixelData
        headers.append(ds.to_json())
    assert headers[0] == headers[1]
    assert (
        '"class": "DF"' in to_dicom(generate(56, 1, FractureOutcome.DF, 256), with_truth=True).ImageComments
    )


def test_demo_studies_are_valid_dx_objects_one_of_each_outcome(tmp_path):
    paths = write_demo_studies(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["DF.dcm", "SF.dcm", "UF.dcm", "VF.dcm", "none.dcm"]
    for path in paths.values():
        assert [line for line in dciodvfy(path) if line.startswith("Error")] == []
    datasets = [dcmread(path) for path in paths.values()]
    assert len({ds.StudyInstanceUID for ds in datasets}) == 5
    assert len({ds.AccessionNumber for ds in datasets}) == 5


def test_fracture_boxes_of_unbroken_femurs_are_empty(phantoms):
    from workers.phantom.anatomy import draw_femur
    from workers.phantom.fracture import intact
    from workers.phantom.projection import Geometry

    femur, leg = draw_femur(stream(5, 1, "femur")), draw_leg(stream(5, 1, "leg"))
    geometry = Geometry(1150.0, 125.0, 0.47, 640, 512, (0.0, 0.0), (256.0, 320.0))
    assert fracture_box(intact(femur, leg), femur, geometry).shape == (0, 4)
