"""From a reading to result files: sources from the spool, objects built, checked and fsynced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from pydicom import Dataset

from hipnode import ledger
from hipnode.destinations import Destination, routes_for
from hipnode.errors import ImageRejected, ReasonedError, SpoolMissing
from hipnode.findings import Algorithm, ImageReading, Reason, StudyReading
from hipnode.images import Radiograph
from hipnode.ledger import Claim, Image, ResultFile, Route
from hipnode.results import BuiltResult, ResultKind, build_results, variant_of
from hipnode.status import Outcome
from workers.headers import read_header
from workers.rooms import Rooms

logger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Told:
    """The result files of one analysis, on disk, and where they go. analysed_at: as the objects say it."""

    files: tuple[ResultFile, ...]
    routes: tuple[Route, ...]
    analysed_at: datetime


def sources_of(rooms: Rooms, claim: Claim, selected: Sequence[Image]) -> list[Dataset]:
    """Headers for the results: the latest revision of each selected image, the latest of the study last.

    Demographics come from the last one. An image that cannot be read is left out; raises
    ReasonedError with the first reason when none is left.
    """
    with ledger.reading(rooms.sessions) as session:
        known = ledger.sources_of_study(session, claim.study_id)
    wanted = {image.sop_instance_uid for image in selected}
    latest = max(known, key=lambda image: image.instance_id, default=None)
    chosen = [image for image in known if image.sop_instance_uid in wanted and image is not latest]
    if latest is not None:
        chosen.append(latest)
    headers: list[Dataset] = []
    why: ReasonedError | None = None
    for image in chosen:
        try:
            rooms.spool.verify(image.relative_path, image.sha256)
            headers.append(read_header(rooms.children, rooms.spool.path(image.relative_path)))
        except SpoolMissing as error:
            why = why or error
            missing(rooms, image)
        except ImageRejected as error:
            why = why or error
    if not headers:
        raise why or SpoolMissing("The study has no source image whose header could be read.")
    return headers


def missing(rooms: Rooms, image: Image) -> None:
    """Note that an image's file is gone, so that sending it again brings it back."""
    with ledger.transaction(rooms.sessions) as session:
        ledger.mark_missing(session, image.instance_id, rooms.owner, rooms.clock())


def tell(
    rooms: Rooms,
    claim: Claim,
    reading: StudyReading,
    algorithm: Algorithm | None,
    sources: Sequence[Dataset],
    pictures: Mapping[str, Radiograph],
    analysed_at: datetime,
) -> Told:
    """Build what the study's destinations take (`build_results` checks it), and write it to the spool.

    Each SR class and overlay size that some destination wants is built, and a report and an overlay
    in any case: they are what the node itself can show. Raises SelfCheckFailed, and OutOfResources when
    they cannot be written; nothing is left behind then.
    """
    destinations = routes_for(rooms.destinations.current(), claim.calling_ae_title, claim.peer_address)
    sr_classes = dict.fromkeys(one.sr_class for one in destinations if "SR" in one.kinds) or ["comprehensive"]
    sizes_px = dict.fromkeys(one.sc_max_px for one in destinations if "SC" in one.kinds) or [0]
    build = partial(
        build_results,
        sources,
        reading,
        algorithm,
        rooms.installation,
        claim.number,
        analysed_at,
        images=pictures,
    )
    built: list[BuiltResult] = []
    for sr_class in sr_classes:
        built += build(kinds=[ResultKind.SR], sr_class=sr_class)
    for size_px in sizes_px:
        built += build(kinds=[ResultKind.SC], max_size_px=size_px)
    files: list[ResultFile] = []
    try:
        for result in built:
            files.append(_keep(rooms, result))
    except BaseException:  # a full disk must not be filled by what is written and never booked
        remove(rooms, [file.relative_path for file in files])
        raise
    return Told(tuple(files), tuple(_route(destination) for destination in destinations), analysed_at)


def whole(rooms: Rooms, relative_path: str, sha256: str) -> bool:
    """Whether a result file is there, unchanged: one that is not is replaced by what is built now."""
    try:
        rooms.spool.verify(relative_path, sha256)
    except SpoolMissing:
        return False
    return True


def failed_reading(images: Sequence[Image], reason: Reason) -> StudyReading:
    """ERROR for the study and each of its images."""
    readings = tuple(
        ImageReading(image.sop_instance_uid, Outcome.ERROR, reason, flags=image.flags) for image in images
    )
    return StudyReading(Outcome.ERROR, reason, readings)


def remove(rooms: Rooms, relative_paths: Sequence[str]) -> None:
    """Remove result files nobody refers to."""
    for path in relative_paths:
        rooms.spool.remove(path)


def _keep(rooms: Rooms, result: BuiltResult) -> ResultFile:
    stored = rooms.spool.write_result(result.dataset)
    return ResultFile(
        kind=result.kind.value,
        variant=result.variant,
        series_instance_uid=result.series_instance_uid,
        sop_instance_uid=result.sop_instance_uid,
        sop_class_uid=result.sop_class_uid,
        relative_path=stored.relative_path,
        sha256=stored.sha256,
    )


def _route(destination: Destination) -> Route:
    variants = {
        kind: variant_of(kind, destination.sr_class, destination.sc_max_px) for kind in destination.kinds
    }
    return Route(destination.name, destination.kinds, variants)
