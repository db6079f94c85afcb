"""Holding a package against a protocol written before: plan, protocol, judgement, report. Pure."""
