"""The broker, the bells, and the workers behind them."""

import os
import secrets
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from kombu import Connection
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from hipnode import ledger, queue
from hipnode.doctor.database import compare_clocks
from hipnode.doctor.records import Record, State, fail, note, ok, warn
from hipnode.errors import HipnodeError
from hipnode.ledger import WorkerRow
from hipnode.ledger.health import holders

if TYPE_CHECKING:
    from hipnode.doctor.site import Site

ANSWER_S = 3.0
BELL_EVERY_S = 1.0
"""A worker notes at most one answered bell a second."""

FRESH = timedelta(seconds=25)
"""A worker beats every ten seconds, also while it is at work."""

BELL_WITHIN_S = 5.0
"""An idle worker answers within a second on Redis, and within two on files."""

_START = {
    "analyse": "Start one: `hipnode worker analyse --device cpu` (or cuda:0). systemd: `systemctl restart "
    "'hipnode-analyse@*'`; compose: `docker compose up -d analyse`. Its log says why one does not stay.",
    "deliver": "Start one: `hipnode worker deliver`. systemd: `systemctl restart hipnode-deliver`; compose: "
    "`docker compose up -d deliver`. Its log says why one does not stay.",
}
_QUEUES = {"analyse": queue.ANALYSE, "deliver": queue.DELIVER}
_WITHOUT = {"analyse": "studies wait and then fail", "deliver": "results and failure notices stay here"}


def check_broker(site: "Site") -> list[Record]:
    """Does the broker answer, and is its clock ours."""
    url = site.settings.broker
    if url.startswith("filesystem:"):
        return [_files(site.settings.data / "broker")]
    if url.startswith("redis"):
        return _redis(site, url)
    if url.startswith("memory:"):
        says = "The broker is memory://: no process hears another one's bells."
        return [fail("broker", says, "Empty HIPNODE_BROKER_URL for files, or point it at a Redis.")]
    where = place_of(url)
    try:
        with Connection(url, connect_timeout=ANSWER_S) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=ANSWER_S)
    except Exception as error:  # noqa: BLE001  # each transport has errors of its own
        says = f"The broker at {where} does not answer ({type(error).__name__})."
        return [fail("broker", says, "Start it, or correct HIPNODE_BROKER_URL.")]
    return [ok("broker", f"The broker at {where} answers.")]


def check_workers(site: "Site") -> list[Record]:
    """Is there a live worker of each kind, and do they hold the packages the selection names."""
    if site.sessions is None:
        return []
    now, runs = site.clock(), site.node().runs
    records = []
    for kind in ("analyse", "deliver"):
        alive = site.live_workers(kind)
        if alive:
            names = ", ".join(f"{w.name}{f' on {w.device}' if w.device else ''}" for w in alive)
            records.append(
                ok("workers", f"{len(alive)} {kind} worker{'s' * (len(alive) > 1)} live: {names}.")
            )
            continue
        dead = [w for w in site.workers() if w.kind == kind]
        last = f"; {dead[0].name} was last heard {_ago(now - dead[0].seen_at)} ago" if dead else ""
        says = f"No {kind} worker lives{last}: {_WITHOUT[kind]}."
        severe = runs or bool(dead) or bool(site.live_workers("deliver" if kind == "analyse" else "analyse"))
        records.append((fail if severe else warn)("workers", says, _START[kind]))
    return records + _packages(site)


def check_bells(site: "Site") -> list[Record]:
    """Ring, and see whether each live worker answers."""
    if site.sessions is None:
        return []
    known = {w.kind for w in site.workers()}
    live = [kind for kind in _QUEUES if kind in known]
    dead = any(r.check == "broker" and r.state is State.FAIL for r in check_broker(site))
    if not live or dead:
        return []  # the other findings say why
    queue.configure(site.settings.broker, site.settings.data / "broker")
    records, asked = [], []
    try:
        for kind in live:
            waiting = queue.bell().waiting(_QUEUES[kind]) or 0
            if waiting >= queue.ENOUGH_BELLS:
                says = f"{waiting} bells wait in the queue {_QUEUES[kind]}, and nobody takes them."
                records.append(fail("bells", says, _RESTART[kind]))
            else:
                asked.append(kind)
        return records + _ring(site, asked)
    finally:
        queue.bell().close()


_RESTART = {
    kind: f"Start the {kind} worker again (systemd: `systemctl restart 'hipnode-{kind}*'`; compose: `docker compose "
    f"restart {kind}`), and give it the same HIPNODE_BROKER_URL and HIPNODE_DATA as the node."
    for kind in _QUEUES
}


def _ring(site: "Site", kinds: list[str]) -> list[Record]:
    """Ring for each kind until each of its workers answered, or time is over.

    One bell reaches one worker: so it is rung again while some have not answered. Workers whose heartbeat
    is old are listened for, too: one that answers all the same has another clock.
    """
    known = [w for w in _workers(site) if w.kind in kinds]
    alive = {w.name for kind in kinds for w in site.live_workers(kind)}
    silent, busy = {w.name for w in known}, _busy(site)
    answered: list[WorkerRow] = []
    end, next_bell = time.monotonic() + BELL_WITHIN_S, 0.0
    while silent and time.monotonic() < end:
        if time.monotonic() >= next_bell:
            next_bell = time.monotonic() + BELL_EVERY_S
            for kind in {w.kind for w in known if w.name in silent}:
                if not queue.bell().ring(_QUEUES[kind]):
                    return [_broker_lost(site)]
        time.sleep(0.2)
        answered = _answered(known, _workers(site))
        silent -= {w.name for w in answered}
        busy |= _busy(site)
    records = []
    for kind in kinds:
        heard = sorted(w.name for w in answered if w.kind == kind)
        if heard:
            records.append(ok("bells", f"A bell for {kind} work arrives: answered by {', '.join(heard)}."))
    for worker in (w for w in known if w.name in silent & alive):
        beats = site.clock() - worker.seen_at < FRESH
        another_did = any(w.kind == worker.kind for w in answered)
        records.append(_unanswered(worker, beats and worker.name in busy, another_did))
    for worker in answered:
        if worker.name not in alive and worker.bell_at is not None:
            ahead_s = (worker.bell_at - site.clock()).total_seconds()
            records.append(compare_clocks("clock-worker", worker.name, ahead_s))
    return records


def _answered(before: list[WorkerRow], now: list[WorkerRow]) -> list[WorkerRow]:
    """Those whose bell_at moved. Their clocks write it, so it is compared with itself and not with ours."""
    known = {w.name: w.bell_at for w in before}
    return [w for w in now if w.name in known and w.bell_at is not None and w.bell_at != known[w.name]]


def _unanswered(worker: WorkerRow, busy: bool, another_did: bool) -> Record:
    if busy:
        return note("bells", f"{worker.name} is at work and answers bells afterwards.")
    says = f"{worker.name} has not answered a bell within {BELL_WITHIN_S:g} s"
    if another_did:  # bells go to who is quicker
        return note("bells", f"{says}; another {worker.kind} worker did.", "Run this again if it stays so.")
    return fail(
        "bells", f"{says}: it died lately, hangs, or listens to another broker.", _RESTART[worker.kind]
    )


def _workers(site: "Site") -> list[WorkerRow]:
    try:
        with ledger.reading(site.sessions) as session:  # type: ignore[arg-type]  # the caller has looked
            return ledger.workers(session)
    except HipnodeError:
        return []


def _busy(site: "Site") -> set[str]:
    try:
        with ledger.reading(site.sessions) as session:  # type: ignore[arg-type]
            return holders(session, site.clock())
    except HipnodeError:
        return set()


def _broker_lost(site: "Site") -> Record:
    says = f"A bell could not be rung: the broker at {place_of(site.settings.broker)} did not take it."
    return fail("bells", says, "See the finding on the broker.")


def _packages(site: "Site") -> list[Record]:
    """What live analyse workers have loaded, against what the selection asks for."""
    live = site.live_workers("analyse")
    if not live:
        return []
    loaded = {id_ for worker in live for id_ in worker.packages}
    records = []
    for id_ in site.package_ids():
        if id_ in loaded:
            records.append(ok("worker-packages", f"{id_} is loaded, as selection.toml asks."))
        else:
            others = ", ".join(sorted(loaded)) or "none"
            says = f"selection.toml names {id_}, and no live analyse worker has it (they have: {others})."
            cure = (
                "Put the package into packages/ of the data folder (`hipnode models verify`) and start the analyse "
                "worker again, or name another one in selection.toml; then `hipnode replay --failed`."
            )
            records.append(fail("worker-packages", says, cure))
    return records


def _files(folder: Path) -> Record:
    """The embedded broker: can a message be written, renamed and removed."""
    messages = folder / "messages"
    if not folder.parent.is_dir():
        return note("broker", f"The broker is files in {folder}, which are made when the node starts.")
    if not messages.is_dir():
        if os.access(folder.parent, os.W_OK | os.X_OK):
            return ok("broker", f"The broker is files in {folder}, which are made when the node starts.")
        return _no_folder(folder)
    for place in (messages, folder / "taken"):
        probe = place / f"doctor-{secrets.token_hex(4)}.probe"  # ends in nothing a worker reads
        try:
            probe.touch(mode=0o600)
            probe.unlink()
        except OSError:
            return _no_folder(place)
    return ok("broker", f"The broker is files in {folder}, and can be written.")


def _no_folder(folder: Path) -> Record:
    says = f"The broker's folder {folder} cannot be written by this user (uid {os.geteuid()})."
    return fail(
        "broker",
        says,
        "Run this as the user hipnode runs as; give the folder back to that user with chown -R.",
    )


def _redis(site: "Site", url: str) -> list[Record]:
    where, correct = place_of(url), "correct HIPNODE_BROKER_URL"
    try:
        client = redis.Redis.from_url(url, socket_connect_timeout=ANSWER_S, socket_timeout=ANSWER_S)
    except ValueError:
        says = "HIPNODE_BROKER_URL is no URL of a Redis."
        return [
            fail("broker", says, "Write redis://:PASSWORD@host:6379/0, with signs like @ / : as %40 %2F %3A.")
        ]
    try:
        client.ping()
        seconds, micros = client.time()
        ahead_s = (datetime.fromtimestamp(seconds + micros / 1e6, UTC) - site.clock()).total_seconds()
        records = [ok("broker", f"Redis at {where} answers.")]
        with suppress(RedisError):  # a server may not let us read its configuration
            records += _eviction(client)
        return [*records, compare_clocks("clock-broker", "Redis", ahead_s)]
    except AuthenticationError:
        asks = not client.connection_pool.connection_kwargs.get("password")
        says = (
            f"Redis at {where} {'asks for a password' if asks else 'does not accept the user or password'}."
        )
        return [fail("broker", says, f"Write redis://:PASSWORD@host:6379/0: {correct}.")]
    except RedisTimeout:
        says = f"Redis at {where} does not answer within {ANSWER_S:g} s."
        return [fail("broker", says, f"Check that its host is up and no firewall is between, or {correct}.")]
    except RedisConnectionError as error:
        if isinstance(error.__cause__ or error.__context__, socket.gaierror):
            return [
                fail(
                    "broker",
                    f"The host of Redis at {where} has no address.",
                    f"Correct the DNS, or {correct}.",
                )
            ]
        says = f"Redis at {where} does not run: nothing listens there."
        return [fail("broker", says, f"Start it (`systemctl start redis-server`), or {correct}.")]
    except ResponseError as error:
        says = f"Redis at {where} answers with an error ({type(error).__name__})."
        return [fail("broker", says, f"Look into the log of Redis, or {correct}.")]
    except (RedisError, OSError, ValueError) as error:
        says = f"Redis at {where} cannot be used ({type(error).__name__})."
        return [fail("broker", says, f"Look into the log of Redis, or {correct}.")]
    finally:
        client.close()


def _eviction(client: "redis.Redis") -> list[Record]:
    found = client.config_get("maxmemory*")
    policy, limit = str(found.get("maxmemory-policy", "")), str(found.get("maxmemory", "0"))
    if limit != "0" and policy.startswith("allkeys"):
        says = f"Redis drops keys when its memory is full ({policy}): bells may be lost and are then late by one sweep."
        return [note("broker-memory", says, "Set maxmemory-policy noeviction for this Redis.")]
    return []


def place_of(url: str) -> str:
    """Host and port of a broker URL, without user and password."""
    try:
        parsed = make_url(url)
        return f"{parsed.host or 'localhost'}:{parsed.port or ''}".rstrip(":")
    except (ArgumentError, ValueError):
        return "the broker URL's host"


def _ago(passed: timedelta) -> str:
    seconds = max(0.0, passed.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
