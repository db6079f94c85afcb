"""Several images, one hip or two: a reader of report and overlay knows what was marked where."""

import pytest
from pydicom.dataset import Dataset

from hipnode.findings import Finding, ImageReading, StudyReading
from hipnode.results import result_text
from hipnode.results.wording import Statement, number_marks, say_image, say_study
from hipnode.status import ReasonCode
from tests.factories import make_radiograph
from tests.readings import (
    ALGORITHM,
    AMBIGUOUS,
    ANALYSED_AT,
    DISPLACED,
    FIRST,
    NO_SIDE,
    SECOND,
    build,
    failed,
    header_of,
    image,
    overlays,
    report,
    study,
    texts,
)

THIRD = header_of(make_radiograph("DX", instance=3))
WHO = "Hip fracture detector 0.1.0"
END = "; other fractures are not excluded."
RIGHT, LEFT = DISPLACED, AMBIGUOUS


def report_of(*images: ImageReading) -> Statement:
    reading = study(*images)
    return say_study(reading, number_marks(reading, ALGORITHM), ALGORITHM)


def overlay_of(reading: StudyReading, number: int) -> Statement:
    mine = reading.images[number - 1]
    marks = [m for m in number_marks(reading, ALGORITHM) if m.image_uid == mine.sop_instance_uid]
    return say_image([mine], marks, ALGORITHM, reading)


def read(*findings: tuple[Finding, ...]) -> list[ImageReading]:
    sources: list[Dataset] = [FIRST, SECOND, THIRD]
    return [image(ds, *each) for ds, each in zip(sources, findings, strict=False)]


SUMMARIES = {
    "one image, one hip": ([(RIGHT,)], "1 region"),
    "one image, two hips": ([(RIGHT, LEFT)], "2 regions", ", in the right and the left hip"),
    "one image, one hip twice": ([(RIGHT, RIGHT)], "2 regions", ", both in the right hip"),
    "one image, sides not given": ([(RIGHT, NO_SIDE)], "2 regions"),
    "two images, one of them marked": ([(LEFT,), ()], "1 region", " in 1 of 2 images"),
    "two images, one hip": ([(RIGHT,), (RIGHT,)], "2 regions", " in 2 of 2 images, both in the right hip"),
    "two images, two hips": (
        [(RIGHT,), (LEFT,)],
        "2 regions",
        " in 2 of 2 images, in the right and the left hip",
    ),
    "two images, two hips in each": (
        [(RIGHT, LEFT), (RIGHT, LEFT)],
        "4 regions",
        " in 2 of 2 images, in the right and the left hip",
    ),
    "three images, one hip": (
        [(RIGHT,), (RIGHT,), (RIGHT,)],
        "3 regions",
        " in 3 of 3 images, all in the right hip",
    ),
    "two of three images, sides not given": (
        [(NO_SIDE,), (), (NO_SIDE,)],
        "2 regions",
        " in 2 of 3 images, which may show the same hip",
    ),
}


@pytest.mark.parametrize("case", SUMMARIES)
def test_the_summary_says_how_many_images_and_which_hips(case: str) -> None:
    findings, count, *where = SUMMARIES[case]
    said = report_of(*read(*findings))
    assert said.summary == f"{count} suspicious for fracture marked by {WHO}{''.join(where)}{END}"


def test_each_finding_of_several_images_names_its_image() -> None:
    said = report_of(*read((RIGHT,), (RIGHT, NO_SIDE)))
    where = [sentence.split(", AI score")[0] for sentence in said.findings]
    assert where == [
        "AI-1: Displaced femoral neck fracture, right (side known from PatientOrientation), image 1 of 2",
        "AI-2: Displaced femoral neck fracture, right (side known from PatientOrientation), image 2 of 2",
        "AI-3: Unstable intertrochanteric fracture, side not given by the image, image 2 of 2",
    ]


def test_the_finding_of_a_single_image_names_none() -> None:
    (sentence,) = report_of(*read((RIGHT,))).findings
    assert "image 1" not in sentence


def test_the_images_are_counted_as_the_image_library_lists_them() -> None:
    reading = study(*read((), (RIGHT,)))
    # demographics come from the last source, which need not be the last image
    ds = report(build([SECOND, FIRST], reading, kinds=["SR"]))
    library = next(i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "111028")
    listed = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in library.ContentSequence[0].ContentSequence
    ]
    assert listed == [FIRST.SOPInstanceUID, SECOND.SOPInstanceUID]
    assert any("AI-1" in text and "image 2 of 2" in text for text in texts(ds))


NOTES = {
    "nothing anywhere": ([(), ()], ["", ""]),
    "this one alone": (
        [(RIGHT,), ()],
        ["", "Image 2 of 2; image 1 of this study is marked."],
    ),
    "both": (
        [(RIGHT,), (RIGHT,)],
        [
            "Image 1 of 2; image 2 of this study is marked as well.",
            "Image 2 of 2; image 1 of this study is marked as well.",
        ],
    ),
    "two others": (
        [(RIGHT,), (), (LEFT,)],
        [
            "Image 1 of 3; image 3 of this study is marked as well.",
            "Image 2 of 3; images 1 and 3 of this study are marked.",
            "Image 3 of 3; image 1 of this study is marked as well.",
        ],
    ),
}


@pytest.mark.parametrize("case", NOTES)
def test_an_overlay_alone_does_not_hide_that_another_image_is_marked(case: str) -> None:
    findings, notes = NOTES[case]
    reading = study(*read(*findings))
    assert [" ".join(overlay_of(reading, n + 1).notes) for n in range(len(notes))] == notes


def test_nothing_found_beside_a_marked_image_is_said_of_this_image_only() -> None:
    alone, beside = study(*read((), ())), study(*read((), (RIGHT,)))
    assert overlay_of(alone, 1).summary == f"No fracture detected by {WHO}; does not exclude fracture."
    said = overlay_of(beside, 1)
    assert said.heading == "AI: NO FRACTURE DETECTED IN THIS IMAGE, DOES NOT EXCLUDE FRACTURE"
    assert said.summary == f"No fracture detected in this image by {WHO}; does not exclude fracture."


def test_a_card_for_several_images_names_them_all() -> None:
    reading = study(image(FIRST, RIGHT), failed(SECOND), failed(THIRD))
    card = say_image(reading.images[1:], [], ALGORITHM, reading)
    assert card.notes[0] == "Images 2 and 3 of 3; image 1 of this study is marked."


def test_a_late_image_without_a_mark_leaves_the_overlay_of_the_first_as_it_was() -> None:
    before = build([FIRST], study(image(FIRST, RIGHT)), kinds=["SC"])
    after = build([FIRST, SECOND], study(image(FIRST, RIGHT), image(SECOND)), kinds=["SC"], number=2)
    assert after[0].sop_instance_uid == before[0].sop_instance_uid


def test_the_text_and_the_derivation_say_the_same() -> None:
    reading = study(*read((RIGHT,), (RIGHT,)))
    written = result_text(reading, ALGORITHM, ANALYSED_AT)
    assert "in 2 of 2 images, both in the right hip" in written
    assert "image 2 of 2" in written
    for ds in overlays(build([FIRST, SECOND], reading)):
        assert "1 region suspicious for fracture" in ds.DerivationDescription


def test_a_flag_keeps_its_place_beside_the_image_note() -> None:
    flagged = image(SECOND, RIGHT, flags=(ReasonCode.VIEW_PA,))
    said = overlay_of(study(image(FIRST, RIGHT), flagged), 2)
    assert said.notes == (
        "Image 2 of 2; image 1 of this study is marked as well.",
        "Analysed although: PA: sides may be mirrored.",
    )
