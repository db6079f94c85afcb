"""The words of the ledger: statuses, outcomes, reason codes, and which status may follow which.

A status is moved by `hipnode.ledger.advance` alone; the tables below say where it may go.
"""

from enum import StrEnum


class AnalysisStatus(StrEnum):
    """Where one package's look at one study stands."""

    RECEIVING = "receiving"  #: instances of the study are still arriving
    QUEUED = "queued"  #: the study is stable, a worker may take it
    ANALYSING = "analysing"  #: one worker holds it, until lease_until
    DELIVERING = "delivering"  #: the result instances are on disk, deliveries are under way
    COMPLETED = "completed"  #: every delivery ended well
    NOT_APPLICABLE = "not_applicable"  #: no image in the study is one we read
    FAILED = "failed"  #: attempts are used up; reason_code and reason say why


class DeliveryStatus(StrEnum):
    """Where one result stands on its way to one destination."""

    DUE = "due"  #: to be sent at due_at
    SENDING = "sending"  #: one worker holds it, until lease_until
    DELIVERED = "delivered"  #: the peer answered 0x0000 or a warning (PS3.4 B.2.3)
    COMMITTED = "committed"  #: the peer confirmed storage commitment (PS3.4 J)
    FAILED = "failed"  #: given up; reason_code and peer_status say why


class Outcome(StrEnum):
    """What a look at a study, or at one of its images, came to."""

    FINDINGS = "findings"  #: at least one class fired
    NONE = "none"  #: looked at, no class fired; never "normal"
    NOT_ANALYSED = "not_analysed"  #: looked at, the package or the image quality says no
    PARTIAL = "partial"  #: a selected image failed, another was read
    ERROR = "error"  #: attempts are used up


class AcceptanceOutcome(StrEnum):
    """How the run of an acceptance protocol ended; while it has none, no result was shown."""

    PASS = "pass"  # noqa: S105  #: every hypothesis holds
    FAIL = "fail"  #: enough cases, and a hypothesis does not hold
    NOT_ENOUGH = "not_enough"  #: too few cases to say either
    ABANDONED = "abandoned"  #: given up before a result was shown; the reason is kept


_A = AnalysisStatus
TRANSITIONS: dict[AnalysisStatus, frozenset[AnalysisStatus]] = {
    _A.RECEIVING: frozenset({_A.QUEUED, _A.NOT_APPLICABLE, _A.FAILED}),
    # RECEIVING: a late image. DELIVERING: a replay of delivery, or the failure notice.
    _A.QUEUED: frozenset({_A.RECEIVING, _A.ANALYSING, _A.DELIVERING, _A.FAILED}),
    _A.ANALYSING: frozenset({_A.DELIVERING, _A.NOT_APPLICABLE, _A.QUEUED}),
    _A.DELIVERING: frozenset({_A.COMPLETED, _A.FAILED}),
    _A.COMPLETED: frozenset(),  # a replay is a new analysis
    _A.NOT_APPLICABLE: frozenset(),
    _A.FAILED: frozenset(),
}

_D = DeliveryStatus
DELIVERY_TRANSITIONS: dict[DeliveryStatus, frozenset[DeliveryStatus]] = {
    _D.DUE: frozenset({_D.SENDING, _D.FAILED}),
    _D.SENDING: frozenset({_D.DELIVERED, _D.DUE, _D.FAILED}),
    _D.DELIVERED: frozenset({_D.COMMITTED, _D.DUE, _D.FAILED}),
    _D.COMMITTED: frozenset(),
    _D.FAILED: frozenset({_D.DUE}),  # a replay sends it again
}

TERMINAL: frozenset[AnalysisStatus] = frozenset(s for s, after in TRANSITIONS.items() if not after)


def sources_of(to: AnalysisStatus) -> frozenset[AnalysisStatus]:
    """The statuses from which an analysis may become `to`."""
    return frozenset(s for s, after in TRANSITIONS.items() if to in after)


def delivery_sources_of(to: DeliveryStatus) -> frozenset[DeliveryStatus]:
    """The statuses from which a delivery may become `to`."""
    return frozenset(s for s, after in DELIVERY_TRANSITIONS.items() if to in after)


class ReasonCode(StrEnum):
    """Why something ended as it did. `SENTENCES` holds the sentence a person reads."""

    # Selection: skipped (selection.toml names these).
    NOT_A_RADIOGRAPH = "NOT_A_RADIOGRAPH"
    OWN_OUTPUT = "OWN_OUTPUT"
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    OTHER_MODALITY = "OTHER_MODALITY"
    SCREEN_CAPTURE = "SCREEN_CAPTURE"
    NOT_GRAYSCALE = "NOT_GRAYSCALE"
    MULTI_FRAME = "MULTI_FRAME"
    DERIVED_RESULT = "DERIVED_RESULT"
    NOT_HUMAN = "NOT_HUMAN"
    TOO_SMALL = "TOO_SMALL"
    LONG_LEG = "LONG_LEG"
    BONE_DENSITY = "BONE_DENSITY"
    SPECIAL_EXAM = "SPECIAL_EXAM"
    CALIBRATION = "CALIBRATION"
    OTHER_REGION = "OTHER_REGION"
    FEMUR_ONLY = "FEMUR_ONLY"
    NO_HIP_SIGN = "NO_HIP_SIGN"
    NO_REGION_GIVEN = "NO_REGION_GIVEN"
    VIEW_TILTED = "VIEW_TILTED"
    VIEW_LATERAL = "VIEW_LATERAL"
    PAEDIATRIC = "PAEDIATRIC"
    IMPLANT = "IMPLANT"
    TWIN_FOR_PRESENTATION = "TWIN_FOR_PRESENTATION"
    SITE_RULE = "SITE_RULE"
    # Selection: analysed, with a flag.
    HIP_AP = "HIP_AP"
    MODALITY_UNUSUAL = "MODALITY_UNUSUAL"
    SECONDARY_CAPTURE = "SECONDARY_CAPTURE"
    FOR_PROCESSING = "FOR_PROCESSING"
    REGION_CONFLICT = "REGION_CONFLICT"
    REGION_UNCLEAR = "REGION_UNCLEAR"
    VIEW_CONFLICT = "VIEW_CONFLICT"
    VIEW_PA = "VIEW_PA"
    VIEW_UNCLEAR = "VIEW_UNCLEAR"
    IMPLANT_WITH_QUESTION = "IMPLANT_WITH_QUESTION"
    # The way in.
    IDENTITY_UNREADABLE = "IDENTITY_UNREADABLE"
    REVISION_CONFLICT = "REVISION_CONFLICT"
    SPOOL_MISSING = "SPOOL_MISSING"
    # The look.
    NO_PACKAGE = "NO_PACKAGE"
    PACKAGE_VETO = "PACKAGE_VETO"
    DECODE_FAILED = "DECODE_FAILED"
    DECODE_LIMIT = "DECODE_LIMIT"
    PIXELS_MISSING = "PIXELS_MISSING"
    IMAGE_QUALITY = "IMAGE_QUALITY"
    WORKER_LOST = "WORKER_LOST"
    SELF_CHECK_FAILED = "SELF_CHECK_FAILED"
    INTERNAL = "INTERNAL"
    # The way out.
    NO_DESTINATION = "NO_DESTINATION"
    DESTINATION_DOWN = "DESTINATION_DOWN"
    DESTINATION_REFUSED = "DESTINATION_REFUSED"
    KIND_UNSUPPORTED = "KIND_UNSUPPORTED"
    NOT_COMMITTED = "NOT_COMMITTED"
    STALE = "STALE"

    @property
    def sentence(self) -> str:
        """The sentence a person reads when nothing more exact is known."""
        return SENTENCES[self]


_R = ReasonCode
SENTENCES: dict[ReasonCode, str] = {
    _R.NOT_A_RADIOGRAPH: "The object is not a radiograph; it was acknowledged and not kept.",
    _R.OWN_OUTPUT: "hipnode made this object.",
    _R.NOT_AN_IMAGE: "The object has no pixels to read.",
    _R.OTHER_MODALITY: "The object is not a projection radiograph.",
    _R.SCREEN_CAPTURE: "Secondary capture of a screen, report or workstation.",
    _R.NOT_GRAYSCALE: "Colour image; radiographs are gray.",
    _R.MULTI_FRAME: "Several frames; only single films are read.",
    _R.DERIVED_RESULT: "Templating, overlay or result of another program.",
    _R.NOT_HUMAN: "Not a human patient.",
    _R.TOO_SMALL: "The image is too small to read.",
    _R.LONG_LEG: "Whole-leg or stitched film.",
    _R.BONE_DENSITY: "Bone densitometry, not a radiograph to read.",
    _R.SPECIAL_EXAM: "Contrast, fluoroscopy-guided or tomographic exam.",
    _R.CALIBRATION: "Quality-control or calibration image.",
    _R.OTHER_REGION: "The header names another body region.",
    _R.FEMUR_ONLY: "Femur or thigh; nothing says hip.",
    _R.NO_HIP_SIGN: "No attribute says hip or pelvis.",
    _R.NO_REGION_GIVEN: "No attribute names a body region.",
    _R.VIEW_TILTED: "Not a straight AP view.",
    _R.VIEW_LATERAL: "Lateral or axial view.",
    _R.PAEDIATRIC: "The patient is under the age this node reads.",
    _R.IMPLANT: "The header names an implant or a post-operative control.",
    _R.TWIN_FOR_PRESENTATION: "The FOR PRESENTATION image of the same exposure is read instead.",
    _R.SITE_RULE: "A rule of this site leaves the image out.",
    _R.HIP_AP: "Hip or pelvis; nothing speaks against AP.",
    _R.MODALITY_UNUSUAL: "An unusual modality on a radiograph.",
    _R.SECONDARY_CAPTURE: "Film sent as secondary capture.",
    _R.FOR_PROCESSING: "FOR PROCESSING pixels.",
    _R.REGION_CONFLICT: "Attributes name different body regions.",
    _R.REGION_UNCLEAR: "Several regions are named; hip is one of them.",
    _R.VIEW_CONFLICT: "Attributes name different views.",
    _R.VIEW_PA: "PA: sides may be mirrored.",
    _R.VIEW_UNCLEAR: "Several views are named, or only the order names one.",
    _R.IMPLANT_WITH_QUESTION: "An implant is named, and so is a fall or fracture.",
    _R.IDENTITY_UNREADABLE: "The object's UIDs could not be read; a copy is in quarantine.",
    _R.REVISION_CONFLICT: "Other bytes arrived under a SOP Instance UID already stored; both are kept.",
    _R.SPOOL_MISSING: "The stored file is missing or changed; send the study again.",
    _R.NO_PACKAGE: "No worker has the model package this study asks for; install it and replay.",
    _R.PACKAGE_VETO: "The model package does not read this kind of image.",
    _R.DECODE_FAILED: "The pixel data could not be decoded.",
    _R.DECODE_LIMIT: "Decoding the pixel data exceeded its limit of time, memory or pixels.",
    _R.PIXELS_MISSING: "The image carries no or too little pixel data.",
    _R.IMAGE_QUALITY: "The image quality does not allow an analysis.",
    _R.WORKER_LOST: "The worker stopped while analysing, as often as is allowed.",
    _R.SELF_CHECK_FAILED: "A result object did not pass hipnode's own check and was not sent.",
    _R.INTERNAL: "An internal error; the log of this analysis has the cause.",
    _R.NO_DESTINATION: "No destination takes results of this source.",
    _R.DESTINATION_DOWN: "The destination did not answer until the time allowed was over.",
    _R.DESTINATION_REFUSED: "The destination refused the object for good.",
    _R.KIND_UNSUPPORTED: "The destination does not take this kind of object.",
    _R.NOT_COMMITTED: "The destination did not commit to keep the object.",
    _R.STALE: "The result was too old to be delivered.",
}
