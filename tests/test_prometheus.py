"""The alert rules: promtool accepts them, each fires when it should and not before, and names what exists."""

import json
import re
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.core import TyperGroup

from hipnode.cli import app
from hipnode.web import Answer, Metrics, Watched, start_web
from tests.node import ROOT
from tests.peers import free_port, need, stop, wait_for
from tests.scp_node import running_scp

FOLDER = ROOT / "deploy" / "prometheus"
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "hipnode.rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]

HOUR = 60  # samples stand a minute apart
DAY = 24 * HOUR
NODE = 'job="hipnode",instance="node:8080"'


def series(name: str, *labels: str) -> str:
    return f"{name}{{{','.join([NODE, *labels])}}}"


CHECKS = ("database", "schema", "disk", "spool", "scp", "backlog", "intake", "broker", "analyse", "deliver")
QUEUES = ("receive", "analyse", "deliver")
RECEIVED = series("hipnode_last_received_timestamp_seconds", 'role="source"')
FAILED = series("hipnode_analyses_ended_total", 'status="failed"', 'reason="DECODE_FAILED"')
DUE = series("hipnode_deliveries_open", 'destination="pacs"', 'status="due"', 'reason="DESTINATION_DOWN"')
STORES = series("hipnode_stores_refused_total", 'calling_ae_title="other"')
REFUSED = series("hipnode_peers_refused_lately", 'reason="CALLED_AE_TITLE"')

#: A node that works, from Thursday midnight on: series -> values of two days, as promtool writes them.
HEALTHY = {
    series("up"): f"1x{2 * DAY}",
    **{series("hipnode_check", f'check="{name}"'): f"1x{2 * DAY}" for name in CHECKS},
    series("hipnode_ledger_readable"): f"1x{2 * DAY}",
    series("hipnode_disk_free_bytes"): f"100e9x{2 * DAY}",
    series("hipnode_disk_low_water_bytes"): f"2e9x{2 * DAY}",
    **{series("hipnode_workers_alive", f'kind="{kind}"'): f"1x{2 * DAY}" for kind in ("analyse", "deliver")},
    RECEIVED: f"0+60x{2 * DAY}",  # one a minute
    **{series("hipnode_queue_oldest_age_seconds", f'queue="{queue}"'): f"5x{2 * DAY}" for queue in QUEUES},
    FAILED: f"3x{2 * DAY}",
    series("hipnode_analyses_ended_total", 'status="completed"', 'reason=""'): f"0+1x{2 * DAY}",
    series("hipnode_backlog"): f"3x{2 * DAY}",
    series("hipnode_backlog_limit"): f"10000x{2 * DAY}",
    series("hipnode_delivery_oldest_age_seconds", 'destination="pacs"'): f"2x{2 * DAY}",
    series("hipnode_deliveries_ended_total", 'destination="pacs"', 'status="failed"'): f"1x{2 * DAY}",
    REFUSED: f"0x{2 * DAY}",
    STORES: f"7x{2 * DAY}",
    series("hipnode_associations_open"): f"1x{2 * DAY}",
    series("hipnode_associations_limit"): f"16x{2 * DAY}",
}  # fmt: skip

#: Alert, what is different, minutes after which it is quiet still, and after which it fires.
CASES: list[tuple[str, dict[str, str | None], int, int]] = [
    ("HipnodeDown", {series("up"): "1x9 0x20"}, 11, 13),
    ("HipnodeNotScraped", {series("up"): "1x9 stale _x30"}, 18, 21),
    *(
        ("HipnodeRefusesStudies", {series("hipnode_check", f'check="{name}"'): "1x9 0x20"}, 11, 13)
        for name in CHECKS[:6]
    ),
    *(
        ("HipnodeDegraded", {series("hipnode_check", f'check="{name}"'): "1x9 0x20"}, 14, 16)
        for name in ("intake", "broker")
    ),
    ("HipnodeLedgerUnreadable", {series("hipnode_ledger_readable"): "1x9 0x20"}, 14, 16),
    ("HipnodeDiskFillsUp", {series("hipnode_disk_free_bytes"): f"100e9x{DAY} 3.9e9x{DAY}"}, DAY + 20, DAY + 40),
    # 100 GB that go in 20 hours
    ("HipnodeDiskFillsUp", {series("hipnode_disk_free_bytes"): f"100e9-83333333x{12 * HOUR}"}, 20, 2 * HOUR),
    *(
        ("HipnodeWorkerMissing", {series("hipnode_workers_alive", f'kind="{kind}"'): "1x9 0x20"}, 14, 16)
        for kind in ("analyse", "deliver")
    ),
    ("HipnodePackageMissing", {series("hipnode_check", 'check="analyse"'): "1x9 0x20"}, 19, 21),
    # the last came on Thursday at 09:30; four hours later, and ten minutes for it
    ("HipnodeNoStudies", {RECEIVED: f"0+60x570 34200x{DAY}"}, 13 * HOUR + 35, 13 * HOUR + 45),
    ("HipnodeNoStudies", {RECEIVED: f"0x{DAY}"}, 12 * HOUR, 12 * HOUR + 11),  # never, and the day has begun
    ("HipnodeStudiesWait", {series("hipnode_queue_oldest_age_seconds", 'queue="analyse"'): "0+60x40"}, 15, 17),
    ("HipnodeStudiesNotClosed", {series("hipnode_queue_oldest_age_seconds", 'queue="receive"'): "0+60x40"}, 20, 22),
    ("HipnodeStudyFailed", {FAILED: "3x9 4x40"}, 9, 11),
    ("HipnodeManyStudiesFail", {FAILED: "3x9 4 5 6 7 8 9 10 11 12 13 14x40"}, 12, 25),
    ("HipnodeBacklog", {series("hipnode_backlog"): "8000x9 8001x20"}, 14, 16),
    (
        "HipnodeDestinationDown",
        {DUE: f"_x9 {'2 _ ' * 30}", series("hipnode_delivery_oldest_age_seconds", 'destination="pacs"'): "0x9 0+60x60"},
        24, 27,
    ),
    ("HipnodeDeliveriesWait", {series("hipnode_queue_oldest_age_seconds", 'queue="deliver"'): "0+60x99"}, 65, 67),
    (
        "HipnodeResultsGivenUp",
        {series("hipnode_deliveries_ended_total", 'destination="pacs"', 'status="failed"'): "1x9 3x20"}, 9, 11,
    ),
    ("HipnodePeerRefused", {REFUSED: "0x9 1x20"}, 9, 11),
    ("HipnodeStoresRefused", {STORES: "7x9 7+1x20"}, 13, 18),
    ("HipnodeAssociationsFull", {series("hipnode_associations_open"): "1x9 16x20"}, 14, 16),
]  # fmt: skip

#: Alerts that fire beside the one that is looked at, and rightly so.
BESIDE = {"HipnodeManyStudiesFail": {"HipnodeStudyFailed"}, "HipnodeDeliveriesWait": set[str]()}


def promtool(*arguments: object) -> str:
    done = subprocess.run(
        [need("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False, cwd=FOLDER
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def unit_test(changes: dict[str, str | None], firing: dict[int, list[str]]) -> dict[str, Any]:
    """A test as promtool reads it. firing: minute -> alerts that fire then, and no other."""
    given = {name: values for name, values in (HEALTHY | changes).items() if values is not None}
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in given.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names],
            }
            for minute, names in firing.items()
        ],
    }


def run_unit_tests(folder: Path, *tests: dict[str, Any], every: str = "1m") -> str:
    """What promtool says of these tests of the rules; it has to end well."""
    file = folder / "alerts.test.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(FOLDER / "hipnode.rules.yaml")],
                "evaluation_interval": every,
                "tests": list(tests),
            }
        )
    )
    return promtool("test", "rules", file)


def test_promtool_accepts_rules_and_configuration() -> None:
    assert f"SUCCESS: {len(RULES)} rules found" in promtool("check", "rules", "hipnode.rules.yaml")
    assert "SUCCESS" in promtool("check", "config", "prometheus.yaml")


def test_a_node_that_works_raises_no_alert(tmp_path: Path) -> None:
    quiet = unit_test({}, {minute: [] for minute in range(30, 2 * DAY, 90)})
    assert "SUCCESS" in run_unit_tests(tmp_path, quiet, every="5m")


def test_each_alert_fires_when_it_should_and_not_before(tmp_path: Path) -> None:
    tests = []
    for alert, changes, quiet, fires in CASES:
        beside = sorted({alert, *BESIDE.get(alert, set())})
        before = [name for name in beside if name != alert and alert == "HipnodeManyStudiesFail"]
        tests.append(unit_test(changes, {quiet: before, fires: beside}))
    assert "SUCCESS" in run_unit_tests(tmp_path, *tests)


def test_no_study_is_missed_at_night_and_at_the_weekend(tmp_path: Path) -> None:
    """The last study came on Thursday at 09:30; Thursday is day 0, Saturday day 2."""
    silence = {RECEIVED: f"0+60x570 34200x{4 * DAY}"}
    others = {name: values for name, values in HEALTHY.items() if name != RECEIVED}
    silence |= {name: values.replace(f"x{2 * DAY}", f"x{5 * DAY}") for name, values in others.items()}
    at = {
        14 * HOUR: True,
        20 * HOUR: False,
        DAY + 3 * HOUR: False,
        DAY + 13 * HOUR: True,
        2 * DAY + 13 * HOUR: False,
    }
    fires = {minute: ["HipnodeNoStudies"] if there else [] for minute, there in at.items()}
    assert "SUCCESS" in run_unit_tests(tmp_path, unit_test(dict(silence), fires), every="5m")


def test_an_alert_that_never_fires_is_found_out(tmp_path: Path) -> None:
    """The harness itself: a test that expects too much must fail."""
    file = tmp_path / "alerts.test.yaml"
    wrong = unit_test({}, {30: ["HipnodeDown"]})
    file.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "hipnode.rules.yaml")], "tests": [wrong]}))
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", file)


def ask(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.loads(answer.read())["data"]


def answers(port: int) -> bool:
    try:
        ask(port, "/api/v1/status/buildinfo")
    except urllib.error.URLError:
        return False
    return True


def test_prometheus_scrapes_a_node_and_evaluates_every_rule(tmp_path: Path) -> None:
    program, port = need("prometheus"), free_port()
    with running_scp(tmp_path) as node:
        web = start_web("127.0.0.1", 0, Watched(node.sessions, node.spool, node.scp))
        shutil.copy(FOLDER / "hipnode.rules.yaml", tmp_path)
        text = (FOLDER / "prometheus.yaml").read_text()
        changed = text.replace("127.0.0.1:8080", f"127.0.0.1:{web.port}").replace(": 15s", ": 1s")
        # the comment names the port too
        assert changed.count(f"127.0.0.1:{web.port}") == 2
        (tmp_path / "prometheus.yaml").write_text(changed)
        with (tmp_path / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(
                [program, "--config.file=prometheus.yaml", f"--web.listen-address=127.0.0.1:{port}",
                 f"--storage.tsdb.path={tmp_path / 'series'}"],
                cwd=tmp_path, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            wait_for(lambda: answers(port), "prometheus answers", 60)
            up = "/api/v1/query?query=up{job='hipnode'}"
            wait_for(
                lambda: [r["value"][1] for r in ask(port, up)["result"]] == ["1"], "the node is scraped", 60
            )

            def rules() -> list[dict[str, Any]]:
                return [rule for group in ask(port, "/api/v1/rules")["groups"] for rule in group["rules"]]

            wait_for(
                lambda: all(rule["health"] != "unknown" for rule in rules()), "the rules are evaluated", 60
            )
            assert {rule["name"]: rule["health"] for rule in rules()} == {
                rule["alert"]: "ok" for rule in RULES
            }
            wait_for(lambda: "HipnodeWorkerMissing" in pending(rules()), "the missing workers are seen", 60)
        finally:
            stop(process)
            web.stop()


def pending(rules: list[dict[str, Any]]) -> set[str]:
    return {rule["name"] for rule in rules if rule["state"] in ("pending", "firing")}


# --- What the rules speak of ---------------------------------------------------------------------


def test_every_alert_is_tried(tmp_path: Path) -> None:
    assert {rule["alert"] for rule in RULES} == {alert for alert, *_ in CASES}


def test_rules_ask_for_figures_the_node_shows(tmp_path: Path) -> None:
    with running_scp(tmp_path) as node:
        page = (
            Metrics(Watched(node.sessions, node.spool, node.scp))
            .page({"disk": Answer(True, "Room.")})
            .decode()
        )
    shown = set()
    for family in text_string_to_metric_families(page):
        shown |= {family.name, f"{family.name}_total"}
    asked = {name for rule in RULES for name in re.findall(r"\bhipnode_[a-z_]+", rule["expr"])}
    assert len(asked) > 12
    assert asked - shown == set()
    assert {name.partition("{")[0] for name in HEALTHY} - {"up"} >= asked - {"hipnode_deliveries_open"}


def test_every_alert_says_what_it_is_and_what_to_type() -> None:
    for rule in RULES:
        said = rule["annotations"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert len(said["summary"]) > 20
        assert "`" in said["description"], rule["alert"]


def hipnode_commands() -> list[str]:
    said = " ".join(rule["annotations"]["description"] for rule in RULES)
    return sorted(set(re.findall(r"`(hipnode [^`]+)`", said)))


def parse(line: str) -> None:
    """Read a command line as hipnode would, without running it. Raises what the reader raises."""
    words = shlex.split(line)[1:]
    command: Any = typer.main.get_command(app)
    context = typer.Context(command)
    while isinstance(command, TyperGroup):
        found = command.get_command(context, words[0]) if words else None
        if found is None:
            raise LookupError(line)
        command, context, words = found, typer.Context(found, parent=context, info_name=words[0]), words[1:]
    command.make_parser(context).parse_args(words)


def test_the_commands_in_the_alerts_exist() -> None:
    commands = hipnode_commands()
    assert len(commands) > 8
    for line in commands:
        parse(line.replace("{{ $labels.kind }}", "analyse").replace("{{ $labels.destination }}", "PACS"))


@pytest.mark.parametrize("wrong", ["hipnode docter", "hipnode studies lists", "hipnode peers --refuse-all"])
def test_a_command_that_is_none_is_found_out(wrong: str) -> None:
    with pytest.raises(Exception, match=r"(?i)studies lists|docter|no such option"):
        parse(wrong)
