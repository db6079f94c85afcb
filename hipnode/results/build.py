"""build_results: source headers and a reading in, finished and checked DICOM objects out. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from hipnode.findings import Algorithm, ImageReading, StudyReading
from hipnode.results.check import check_result
from hipnode.results.common import (
    Instant,
    Study,
    encode,
    finish_object,
    instant_of,
    start_object,
    study_of,
)
from hipnode.results.identity import (
    Installation,
    ResultIdentity,
    ResultKind,
    canonical_algorithm,
    canonical_study,
    identify,
    variant_of,
)
from hipnode.results.overlay import draw_overlay
from hipnode.results.sc import anatomy_of, make_overlay
from hipnode.results.sr import make_report
from hipnode.results.wording import Mark, Statement, number_marks, say_image, say_study
from hipnode.status import Outcome

if TYPE_CHECKING:
    from hipnode.images import Radiograph


@dataclass(frozen=True, eq=False)
class BuiltResult:
    """A finished object. `dataset` carries its file meta information."""

    kind: ResultKind
    variant: str  #: `variant_of` its form
    dataset: Dataset

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID."""
        return str(self.dataset.SOPClassUID)

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID."""
        return str(self.dataset.SOPInstanceUID)

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID."""
        return str(self.dataset.SeriesInstanceUID)

    def encode(self) -> bytes:
        """The Part 10 file."""
        return encode(self.dataset)


def build_results(
    sources: Sequence[Dataset],
    reading: StudyReading,
    algorithm: Algorithm | None,
    installation: Installation,
    number: int,
    analysed_at: datetime,
    *,
    images: "Mapping[str, Radiograph] | None" = None,
    sr_class: str = "comprehensive",
    max_size_px: int = 0,
    kinds: Collection[ResultKind | str] = tuple(ResultKind),
) -> list[BuiltResult]:
    """Build the objects that answer one look at one study: a report, and an overlay for each image.

    sources: headers of the study's images in the order they were stored; patient and study
        attributes come from the last. Pixel data is not needed.
    reading: the answer; its images name their source by SOP Instance UID. A reading without images
        speaks of all sources.
    algorithm: the package asked for, also where it did not come to look; None where none is known.
    number: of the analysis, from 1; names the series.
    analysed_at: the stored instant; its zone is required, any zone of the same instant gives the same bytes.
    images: display pixels by SOP Instance UID. Images without them share one card of text for each
        outcome and reason.
    sr_class, max_size_px: the form, as the destination takes it (`variant_of`).

    Raises SelfCheckFailed, naming the attribute, if an object would not be fit to leave.
    """
    pictures = images or {}
    wanted = {ResultKind(kind) for kind in kinds}
    uids = [image.sop_instance_uid for image in reading.images]
    study = study_of(sources, uids, algorithm.sha256 if algorithm else "")
    maker = _Maker(study, installation, number, instant_of(analysed_at, study, installation), algorithm)
    marks = number_marks(reading, algorithm)
    built = []
    if ResultKind.SR in wanted:
        built.append(maker.report(reading, marks, variant_of(ResultKind.SR, sr_class)))
    if ResultKind.SC in wanted:
        built += maker.overlays(reading, marks, pictures, max_size_px)
    for result in built:
        check_result(result.dataset)
    return built


@dataclass(frozen=True)
class _Maker:
    """What all objects of one call have in common."""

    study: Study
    installation: Installation
    number: int
    now: Instant
    algorithm: Algorithm | None

    def report(self, reading: StudyReading, marks: list[Mark], variant: str) -> BuiltResult:
        said = say_study(reading, marks, self.algorithm)
        content = canonical_study(reading, reading.images, said.wording)
        uids = [image.sop_instance_uid for image in reading.images]
        identity = self._identify(ResultKind.SR, variant, uids, content, 1)
        ds = start_object(self.study, identity, self.installation, self.now)
        make_report(ds, self.study, self.installation, reading, marks, said, self.algorithm)
        return BuiltResult(ResultKind.SR, variant, finish_object(ds))

    def overlays(
        self,
        reading: StudyReading,
        marks: list[Mark],
        pictures: "Mapping[str, Radiograph]",
        max_size_px: int,
    ) -> list[BuiltResult]:
        variant = variant_of(ResultKind.SC, max_size_px=max_size_px)
        anatomy = anatomy_of(self.study, pictures)
        built = []
        for position, (reads, outcome, said) in enumerate(self._sheets(reading, marks, pictures), 1):
            uids = {read.sop_instance_uid for read in reads}
            shown = [s for s in self.study.sources if not reads or s.sop_instance_uid in uids]
            picture = pictures.get(reads[0].sop_instance_uid) if len(reads) == 1 else None
            pixels = picture.pixels if picture else None
            sheet = StudyReading(outcome, reads[0].reason if reads else reading.reason, tuple(reads))
            content = canonical_study(sheet, reads, said.wording) | {"picture": pixels is not None}
            identity = self._identify(ResultKind.SC, variant, uids, content, position)
            ds = start_object(self.study, identity, self.installation, self.now)
            here = [mark for mark in marks if mark.image_uid in uids]
            rgb = draw_overlay(pixels, here if picture else [], said, outcome, self.now.words, max_size_px)
            make_overlay(
                ds, self.study, shown, rgb, said, self.now, self.installation, anatomy, pixels is not None
            )
            built.append(BuiltResult(ResultKind.SC, variant, finish_object(ds)))
        return built

    def _sheets(
        self, reading: StudyReading, marks: list[Mark], pictures: "Mapping[str, Radiograph]"
    ) -> list[tuple[list[ImageReading], Outcome, Statement]]:
        """The images each overlay speaks of: one with a picture, or all without one that say the same."""
        if not reading.images:
            return [([], reading.outcome, say_study(reading, marks, self.algorithm))]
        sheets: dict[object, list[ImageReading]] = {}
        for image in reading.images:
            same = (image.outcome, image.reason, image.flags)
            alone = image.sop_instance_uid in pictures or image.findings
            sheets.setdefault(image.sop_instance_uid if alone else same, []).append(image)
        return [
            (reads, reads[0].outcome, say_image(reads, self._of(marks, reads[0]), self.algorithm, reading))
            for reads in sheets.values()
        ]

    @staticmethod
    def _of(marks: list[Mark], image: ImageReading) -> list[Mark]:
        return [mark for mark in marks if mark.image_uid == image.sop_instance_uid]

    def _identify(
        self,
        kind: ResultKind,
        variant: str,
        image_uids: Collection[str],
        content: dict[str, object],
        instance_number: int,
    ) -> ResultIdentity:
        return identify(
            kind,
            variant,
            study_uid=self.study.study_uid,
            source_uids=image_uids or [source.sop_instance_uid for source in self.study.sources],
            package_sha256=self.study.package_sha256,
            content=content | {"algorithm": canonical_algorithm(self.algorithm)},
            number=self.number,
            instance_number=instance_number,
        )
