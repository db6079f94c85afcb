"""Monitoring of a site: what its ledger remembers becomes weeks, limits, drifts, alarms and pages. Pure."""
