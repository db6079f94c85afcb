"""All checks of an installation, side by side, in the order a reader wants them."""

from functools import partial

from hipnode.doctor.clock import check_clock, check_ledger_clock
from hipnode.doctor.database import check_database, check_database_clock
from hipnode.doctor.destinations import check_destinations
from hipnode.doctor.network import check_node, check_ports
from hipnode.doctor.packages import check_packages, check_torch
from hipnode.doctor.records import Record
from hipnode.doctor.refusals import check_refusals
from hipnode.doctor.running import run_checks
from hipnode.doctor.site import Site
from hipnode.doctor.sitefiles import (
    check_ae_title,
    check_allow_list,
    check_destinations_file,
    check_selection,
    check_settings,
)
from hipnode.doctor.storage import check_disk, check_folders, check_leftovers
from hipnode.doctor.work import check_arrivals, check_failures, check_outcomes, check_queue
from hipnode.doctor.workers import check_bells, check_broker, check_workers

DEADLINE_S = 13.0

CHECKS = (
    ("settings", check_settings),
    ("ae-title", check_ae_title),
    ("allowed-peers", check_allow_list),
    ("selection-file", check_selection),
    ("destinations-file", check_destinations_file),
    ("ports", check_ports),
    ("node", check_node),
    ("database", check_database),
    ("broker", check_broker),
    ("workers", check_workers),
    ("bells", check_bells),
    ("model-packages", check_packages),
    ("torch", check_torch),
    ("destination-echo", check_destinations),
    ("refused-peers", check_refusals),
    ("arrivals", check_arrivals),
    ("queue-age", check_queue),
    ("outcomes", check_outcomes),
    ("failures", check_failures),
    ("data-folder", check_folders),
    ("disk-space", check_disk),
    ("quarantine", check_leftovers),
    ("clock-sync", check_clock),
    ("clock-database", check_database_clock),
    ("clock-ledger", check_ledger_clock),
)


def examine(site: Site, within_s: float = DEADLINE_S) -> list[Record]:
    """Every finding, in the order of CHECKS. Takes at most about `within_s` seconds and does not raise."""
    return run_checks([(name, partial(check, site)) for name, check in CHECKS], within_s)
