"""The codes our objects use, each with its source. docs/codes.md publishes the private ones.

Private codes (scheme 99HIPNODE) stand only where no public code with that meaning could be confirmed.
"""

from collections.abc import Mapping

from highdicom.sr import CodedConcept
from pydicom.sr.coding import Code

from hipnode.status import ReasonCode

SCHEME = "99HIPNODE"
SCHEME_VERSION = "1"
SCHEME_NAME = "hipnode codes for hip fracture findings"
RESPONSIBLE = "hipnode project"

# TID 1500 and the templates in it (PS3.16)
IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")  # CID 7021
LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")  # TID 1204
ENGLISH = Code("en", "RFC5646", "English")
OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")  # TID 1002
DEVICE = Code("121007", "DCM", "Device")
DEVICE_UID = Code("121012", "DCM", "Device Observer UID")  # TID 1004
DEVICE_NAME = Code("121013", "DCM", "Device Observer Name")
DEVICE_MANUFACTURER = Code("121014", "DCM", "Device Observer Manufacturer")
DEVICE_MODEL = Code("121015", "DCM", "Device Observer Model Name")
DEVICE_SERIAL = Code("121016", "DCM", "Device Observer Serial Number")
DEVICE_LOCATION = Code("121017", "DCM", "Device Observer Physical Location During Observation")
PROCEDURE_REPORTED = Code("121058", "DCM", "Procedure reported")
PLAIN_RADIOGRAPHY = Code("168537006", "SCT", "Plain radiography")  # CID 10005
IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")  # TID 1600
IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
SOURCE = Code("260753009", "SCT", "Source")
MODALITY = Code("121139", "DCM", "Modality")  # TID 1602
MODALITIES: Mapping[str, Code] = {  # CID 29, by SOP Class UID
    "1.2.840.10008.5.1.4.1.1.1": Code("CR", "DCM", "Computed Radiography"),
    "1.2.840.10008.5.1.4.1.1.1.1": Code("DX", "DCM", "Digital Radiography"),
    "1.2.840.10008.5.1.4.1.1.1.1.1": Code("DX", "DCM", "Digital Radiography"),
}
OTHER_MODALITY = Code("OT", "DCM", "Other")
PIXEL_ROWS = Code("110910", "DCM", "Pixel Data Rows")
PIXEL_COLUMNS = Code("110911", "DCM", "Pixel Data Columns")
ORIENTATION_ROW = Code("111044", "DCM", "Patient Orientation Row")  # TID 1603
ORIENTATION_COLUMN = Code("111043", "DCM", "Patient Orientation Column")
HORIZONTAL_SPACING = Code("111026", "DCM", "Horizontal Pixel Spacing")
VERTICAL_SPACING = Code("111066", "DCM", "Vertical Pixel Spacing")
IMAGING_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
MEASUREMENT_GROUP = Code("125007", "DCM", "Measurement Group")  # TID 1410
TRACKING_IDENTIFIER = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
FINDING_CATEGORY = Code("276214006", "SCT", "Finding category")
ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")  # CID 7150
FINDING = Code("121071", "DCM", "Finding")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
LATERALITY = Code("272741003", "SCT", "Laterality")
SIDES: Mapping[str, Code] = {  # CID 244
    "R": Code("24028007", "SCT", "Right"),
    "L": Code("7771000", "SCT", "Left"),
}
ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")  # TID 4019
ALGORITHM_PARAMETERS = Code("111002", "DCM", "Algorithm Parameters")
ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")
ALGORITHM_MANUFACTURER = Code("122405", "DCM", "Algorithm Manufacturer")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
MORPHOLOGY = Code("116676008", "SCT", "Associated morphology")
FRACTURE = Code("72704001", "SCT", "Fracture")
IMAGE_REGION = Code("111030", "DCM", "Image Region")
COMMENT = Code("121106", "DCM", "Comment")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")  # TID 1500 row 12
SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
ALL_WITH_FINDINGS = Code("111242", "DCM", "All algorithms succeeded; with findings")  # CID 6047
ALL_WITHOUT_FINDINGS = Code("111241", "DCM", "All algorithms succeeded; without findings")
SOME_WITH_FINDINGS = Code("111244", "DCM", "Not all algorithms succeeded; with findings")
SOME_WITHOUT_FINDINGS = Code("111243", "DCM", "Not all algorithms succeeded; without findings")
NONE_SUCCEEDED = Code("111245", "DCM", "No algorithms succeeded; without findings")
PRESENT = Code("52101004", "SCT", "Present")  # CID 240
ABSENT = Code("272519000", "SCT", "Absent")
QUALITY_ASSESSMENT = Code("111050", "DCM", "Quality Assessment")
UNUSABLE = Code("111235", "DCM", "Unusable - Quality renders image unusable")  # CID 6044
SOURCE_OF_PROCESSING = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202
PERCENT = Code("%", "UCUM", "Percent")
NO_UNITS = Code("1", "UCUM", "no units")
PIXELS = Code("{pixels}", "UCUM", "Pixels")
MILLIMETRE = Code("mm", "UCUM", "mm")

# Private: the classes of the four-class detector. A package may bring other codes of its own.
CLASSES: Mapping[str, Code] = {
    "DF": Code("HN-DFN", SCHEME, "Displaced femoral neck fracture"),
    "VF": Code("HN-VFN", SCHEME, "Valgus-impacted femoral neck fracture"),
    "SF": Code("HN-SIT", SCHEME, "Stable intertrochanteric fracture"),
    "UF": Code("HN-UIT", SCHEME, "Unstable intertrochanteric fracture"),
}
FEMORAL_NECK = Code("29627003", "SCT", "Structure of neck of femur")
PROXIMAL_FEMUR = Code("310651003", "SCT", "Proximal Femur")
HIP_REGION = Code("29836001", "SCT", "Hip")
_SITES: Mapping[tuple[str, str], Code] = {
    (SCHEME, "HN-DFN"): FEMORAL_NECK,
    (SCHEME, "HN-VFN"): FEMORAL_NECK,
    (SCHEME, "HN-SIT"): PROXIMAL_FEMUR,  # no code for the intertrochanteric region could be confirmed
    (SCHEME, "HN-UIT"): PROXIMAL_FEMUR,
}
SCORE = Code("HN-SCORE", SCHEME, "AI score (uncalibrated)")
ALTERNATIVE = Code("HN-ALT", SCHEME, "Alternative finding")
ALTERNATIVE_SCORE = Code("HN-ALT-SCORE", SCHEME, "AI score of the alternative (uncalibrated)")
ALTERNATIVE_CERTAINTY = Code("HN-ALT-CERT", SCHEME, "Certainty of the alternative")
RULE = Code("HN-RULE", SCHEME, "Decision rule that chose the class")
SIDE_SOURCE = Code("HN-SIDE-SRC", SCHEME, "How the side is known")
REASON = Code("HN-REASON", SCHEME, "Reason why not analysed")
FLAG = Code("HN-FLAG", SCHEME, "Analysed although")

_R = ReasonCode
#: Reason code -> (code value after "HN-R-", meaning). A Code Value holds 16 characters, a meaning 64.
_REASONS: Mapping[ReasonCode, tuple[str, str]] = {
    _R.NOT_A_RADIOGRAPH: ("NORAD", "Not a radiograph"),
    _R.OWN_OUTPUT: ("OWN", "Made by hipnode"),
    _R.NOT_AN_IMAGE: ("NOIMAGE", "No pixels to read"),
    _R.OTHER_MODALITY: ("MODALITY", "Not a projection radiograph"),
    _R.SCREEN_CAPTURE: ("SCREEN", "Capture of a screen or document"),
    _R.NOT_GRAYSCALE: ("COLOUR", "Colour image"),
    _R.MULTI_FRAME: ("FRAMES", "Several frames"),
    _R.DERIVED_RESULT: ("DERIVED", "Result of another program"),
    _R.NOT_HUMAN: ("ANIMAL", "Not a human patient"),
    _R.TOO_SMALL: ("SMALL", "Image too small"),
    _R.LONG_LEG: ("LONGLEG", "Whole-leg or stitched film"),
    _R.BONE_DENSITY: ("DXA", "Bone densitometry"),
    _R.SPECIAL_EXAM: ("SPECIAL", "Contrast, fluoroscopic or tomographic exam"),
    _R.CALIBRATION: ("CALIB", "Quality-control or calibration image"),
    _R.OTHER_REGION: ("REGION", "Another body region"),
    _R.FEMUR_ONLY: ("FEMUR", "Femur or thigh without hip"),
    _R.NO_HIP_SIGN: ("NOHIP", "Nothing says hip or pelvis"),
    _R.NO_REGION_GIVEN: ("NOREGION", "No body region given"),
    _R.VIEW_TILTED: ("TILTED", "Not a straight AP view"),
    _R.VIEW_LATERAL: ("LATERAL", "Lateral or axial view"),
    _R.PAEDIATRIC: ("CHILD", "Patient under the age that is read"),
    _R.IMPLANT: ("IMPLANT", "Implant or post-operative control"),
    _R.TWIN_FOR_PRESENTATION: ("TWIN", "The FOR PRESENTATION twin is read instead"),
    _R.SITE_RULE: ("SITE", "Left out by a rule of the site"),
    _R.HIP_AP: ("HIPAP", "Hip or pelvis, nothing against AP"),
    _R.MODALITY_UNUSUAL: ("MODODD", "Unusual modality on a radiograph"),
    _R.SECONDARY_CAPTURE: ("SC", "Film sent as secondary capture"),
    _R.FOR_PROCESSING: ("FORPROC", "FOR PROCESSING pixels"),
    _R.REGION_CONFLICT: ("REGCONF", "Attributes name different body regions"),
    _R.REGION_UNCLEAR: ("REGUNCL", "Several regions are named"),
    _R.VIEW_CONFLICT: ("VIEWCONF", "Attributes name different views"),
    _R.VIEW_PA: ("VIEWPA", "PA view"),
    _R.VIEW_UNCLEAR: ("VIEWUNCL", "View unclear"),
    _R.IMPLANT_WITH_QUESTION: ("IMPLQUEST", "Implant named, and a fall or fracture"),
    _R.IDENTITY_UNREADABLE: ("IDENTITY", "UIDs could not be read"),
    _R.REVISION_CONFLICT: ("REVISION", "Other bytes under a known SOP Instance UID"),
    _R.SPOOL_MISSING: ("SPOOL", "Stored file missing or changed"),
    _R.NO_PACKAGE: ("NOPACKAGE", "Model package not installed"),
    _R.PACKAGE_VETO: ("VETO", "Not a kind of image the model package reads"),
    _R.DECODE_FAILED: ("DECODE", "Pixel data could not be decoded"),
    _R.DECODE_LIMIT: ("LIMIT", "Decoding exceeded its limits"),
    _R.PIXELS_MISSING: ("PIXELS", "No or too little pixel data"),
    _R.IMAGE_QUALITY: ("QUALITY", "Image quality does not allow an analysis"),
    _R.WORKER_LOST: ("WORKER", "Worker stopped while analysing"),
    _R.SELF_CHECK_FAILED: ("SELFCHECK", "A result did not pass the node's own check"),
    _R.INTERNAL: ("INTERNAL", "Internal error"),
    _R.NO_DESTINATION: ("NODEST", "No destination takes the results"),
    _R.DESTINATION_DOWN: ("DESTDOWN", "Destination did not answer"),
    _R.DESTINATION_REFUSED: ("DESTREF", "Destination refused the object"),
    _R.KIND_UNSUPPORTED: ("KIND", "Destination does not take this kind of object"),
    _R.NOT_COMMITTED: ("COMMIT", "Destination did not commit to keep the object"),
    _R.STALE: ("STALE", "Too old to be delivered"),
}


def concept(code: Code) -> CodedConcept:
    """A code as an item of a code sequence."""
    return CodedConcept(code.value, code.scheme_designator, code.meaning)


def reason_code(code: ReasonCode) -> Code:
    """The private code of a reason."""
    value, meaning = _REASONS[code]
    return Code(f"HN-R-{value}", SCHEME, meaning)


def finding_site(code_value: str, coding_scheme: str) -> Code:
    """Where a class of fracture lies; the hip, where the class is not one of ours."""
    return _SITES.get((coding_scheme, code_value), HIP_REGION)


def private_codes() -> list[Code]:
    """Every code of 99HIPNODE, as docs/codes.md lists them."""
    concepts = [
        SCORE,
        ALTERNATIVE,
        ALTERNATIVE_SCORE,
        ALTERNATIVE_CERTAINTY,
        RULE,
        SIDE_SOURCE,
        REASON,
        FLAG,
    ]
    return [*CLASSES.values(), *concepts, *(reason_code(code) for code in ReasonCode)]
