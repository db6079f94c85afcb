"""The DICOM objects hipnode returns: report and overlay. Pure: no clock, no files, no network.

`build_results` takes source headers, a reading and an instant, and gives finished, checked objects.
"""

from hipnode.results.build import BuiltResult, build_results
from hipnode.results.check import check_result
from hipnode.results.common import encode
from hipnode.results.identity import (
    OWN_HEADER_KEYWORDS,
    Installation,
    ResultIdentity,
    ResultKind,
    is_own_header,
    is_own_output,
    variant_of,
)
from hipnode.results.sc import overlay_pixels, preview_png
from hipnode.results.wording import result_text

__all__ = [
    "OWN_HEADER_KEYWORDS",
    "BuiltResult",
    "Installation",
    "ResultIdentity",
    "ResultKind",
    "build_results",
    "check_result",
    "encode",
    "is_own_header",
    "is_own_output",
    "overlay_pixels",
    "preview_png",
    "result_text",
    "variant_of",
]
