"""hipnode: a DICOM node that reads hip radiographs and answers with SR and overlay."""

__version__ = "0.1.0"
