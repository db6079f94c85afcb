"""The doctor: looks at an installation and says, for each thing, how it stands and what to do.

A check is a function that takes the `Site` and gives records. Checks run side by side within a
deadline, work while the node or the database is down, and change nothing but a probe file they remove
again, a bell, and what a C-ECHO leaves in a log; a test object is sent only where it is asked for.
"""

from hipnode.doctor.bundle import write_bundle
from hipnode.doctor.destinations import write_back
from hipnode.doctor.examine import examine
from hipnode.doctor.records import Record, State, sentence, summary
from hipnode.doctor.running import guarded
from hipnode.doctor.site import Site
from hipnode.doctor.sitefiles import environment_names, unknown_names

__all__ = [
    "Record",
    "Site",
    "State",
    "environment_names",
    "examine",
    "guarded",
    "sentence",
    "summary",
    "unknown_names",
    "write_back",
    "write_bundle",
]
