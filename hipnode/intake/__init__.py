"""Intake: closes studies that are complete, and keeps work moving. It runs beside the SCP.

`tick`: the thread that ticks and sweeps · `looks`: headers, read beside the tick ·
`reconciliation`: spool and ledger agree before the SCP listens.
"""

from hipnode.intake.reconciliation import Reconciled, reconcile
from hipnode.intake.tick import Intake, Pace

__all__ = ["Intake", "Pace", "Reconciled", "reconcile"]
