"""Fixtures every test may use, and the rule that CI runs what it must."""

import os
from collections.abc import Iterator

import pytest

from tests.peers import films, orthanc, postgres, postgres_url, redis, redis_url

__all__ = ["films", "orthanc", "postgres", "postgres_url", "redis", "redis_url"]

# In CI a run without these proves too little; each file must have a test that passed.
MUST_RUN = ("tests/test_orthanc_route.py", "tests/test_kill.py", "tests/test_network.py")

_passed: set[str] = set()


@pytest.fixture(autouse=True, scope="session")
def _log_stays() -> Iterator[None]:
    """A command may not set up the log of the process that runs the tests; before any fixture of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hipnode.logs.configure", lambda *_, **__: None)
        yield


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        _passed.add(report.nodeid.split("::")[0])


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    whole_suite = not session.config.option.file_or_dir and not session.config.option.keyword
    if (
        os.environ.get("HIPNODE_REQUIRE_PEERS") != "1"
        or hasattr(session.config, "workerinput")
        or not whole_suite
    ):
        return
    left_out = [name for name in MUST_RUN if name not in _passed]
    if left_out:
        print("\nNo test of these files passed, and HIPNODE_REQUIRE_PEERS=1:", *left_out, sep="\n  ")  # noqa: T201
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
