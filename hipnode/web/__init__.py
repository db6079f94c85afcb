"""The web door: is the node alive, can it take a study and finish it, and its figures. No patient data, no login.

`health`: the checks behind /readyz · `metrics`: what /metrics says · `server`: the pages and their server.
"""

from hipnode.web.health import Answer, Check, Watched, checks_of
from hipnode.web.metrics import Metrics
from hipnode.web.server import Web, make_app, start_web

__all__ = ["Answer", "Check", "Metrics", "Watched", "Web", "checks_of", "make_app", "start_web"]
