"""The transfer syntaxes radiographs are taken in: what the SCP negotiates, and what is decoded. One list."""

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"

UNCOMPRESSED = (EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN)

#: Best first. A sender that offers several in one context may re-encode to meet our choice: so
#: lossless ones come first (smallest first), the uncompressed ones follow, and lossy ones are taken
#: only from a sender that offers nothing else.
RADIOGRAPH_SYNTAXES = (
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless only
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, process 14 selection value 1
    "1.2.840.10008.1.2.4.57",  # JPEG lossless, process 14
    "1.2.840.10008.1.2.5",  # RLE lossless
    *UNCOMPRESSED,
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.51",  # JPEG extended, 12 bit
    "1.2.840.10008.1.2.4.50",  # JPEG baseline, 8 bit
)
