"""The key backup in a real Prefect, over real stores and a real secrets manager, and the needles that must be nowhere.

Prefect's server and the S3 server are the session's; the flow runs in a process of its own, as a worker runs it.
"""

import base64
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import httpx
import pytest
from beside import beside
from loopback_ports import free_port
from prefect_server import Server, asked

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
MAKER = ROOT / "tests" / "unit" / "custody_keys" / "sitemaker.py"
READY_S = 420.0
PREFIX = "virtengine/dr/backup-passphrase"
CLOUD = {"us-east": "us-east-1", "eu-west": "eu-west-1", "ap-south": "ap-south-1"}
DAEMON_NEEDLE = "needle-of-the-daemons-passphrase"


def until(true: Callable[[], object], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.1)


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()  # noqa: S310 (our own servers)
    except urllib.error.HTTPError as answer:
        answer.close()
        return answer.code < httpx.codes.INTERNAL_SERVER_ERROR
    except OSError:
        return False
    return True


@dataclass
class World:
    """Everything that runs, and where."""

    folder: Path
    site: Path
    env: dict[str, str]
    prefect: Path
    moto: str
    maker: ModuleType
    buckets: Path

    def vedr(self, *arguments: str, plain: bool = True) -> subprocess.CompletedProcess[str]:
        env = self.env | ({"VEDR_PLAIN": "1"} if plain else {})
        command = [sys.executable, "-c", "from vedr.cli import main; main()", *arguments]
        return subprocess.run(
            command, env=env, capture_output=True, text=True, check=False, cwd=self.folder, timeout=300
        )

    def flow(self, order: str) -> subprocess.CompletedProcess[str]:
        """The flow as a worker starts it, with everything that can be logged logged."""
        program = (
            "import sys, json\n"
            "from flows.key_backup import key_backup\n"
            "from tasks.orders import RegionJob\n"
            "print(key_backup(RegionJob(**json.loads(sys.argv[1]))))\n"
        )
        env = self.env | {"PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG"}
        command = [sys.executable, "-c", program, order]
        return subprocess.run(
            command, env=env, capture_output=True, text=True, check=False, cwd=self.folder, timeout=300
        )

    def _run(self, command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=env, capture_output=True, text=True, check=False, cwd=self.folder, timeout=300
        )

    def passphrases(self) -> list[bytes]:
        client = boto3.client(
            "secretsmanager", region_name="us-east-1", endpoint_url=self.moto,
            aws_access_key_id="x", aws_secret_access_key="y",
        )  # fmt: skip
        names = [entry["Name"] for entry in client.list_secrets()["SecretList"]]
        return [client.get_secret_value(SecretId=name)["SecretString"].encode() for name in names]

    def needles(self) -> set[bytes]:
        """Every secret in every spelling that somebody might leave behind."""
        found: set[bytes] = {DAEMON_NEEDLE.encode()}
        found |= set(self.passphrases())
        for seed in self.maker.private_values(self.folder / "home"):
            found |= {seed, seed.hex().encode(), seed.hex().upper().encode(), base64.b64encode(seed)[:40]}
        found |= {base64.b64encode(needle)[: len(needle) // 3 * 4] for needle in set(found)}
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, s3_server: Any, server: Server) -> Iterator[World]:
    server.start()  # another file may have left it dead
    folder = tmp_path_factory.mktemp("keys")
    port = str(free_port())
    moto = f"http://127.0.0.1:{port}"
    env = {name: value for name, value in server.env.items() if not name.startswith("AWS_")}
    maker = beside("sitemaker", MAKER)
    home = folder / "home"
    home.mkdir()
    s3 = s3_server.credentials
    s3_keys = json.dumps({"access_key": s3.access_key, "secret_key": s3.secret_key}).encode()
    credentials = maker.secret(folder / "secrets" / "s3.json", s3_keys)
    stores = {
        region: {
            "endpoint": s3_server.endpoint,
            "bucket": s3_server.store(region).config.bucket,
            "cloud_region": "us-east-1",
            "credentials": credentials,
        }
        for region in CLOUD
    }
    escrow_keys = maker.secret(folder / "secrets" / "aws.json", b'{"access_key": "x", "secret_key": "y"}')
    custody = {
        "escrow": {"endpoints": dict.fromkeys(CLOUD, moto), "credentials": escrow_keys},
        "provider_passphrase": maker.secret(folder / "secrets" / "daemon", DAEMON_NEEDLE.encode()),
    }
    site = maker.make_site(home, stores=stores, custody=custody)
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", port]
    with (folder / "moto.log").open("ab") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: answers(f"{moto}/moto-api/"), READY_S, "moto answers")
        prefect = Path(env["PREFECT_HOME"])
        yield World(folder, site, env | {"VEDR_SITE": str(site)}, prefect, moto, maker, s3_server.folder)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_without_a_passphrase_the_job_fails_and_says_what_to_do(world: World) -> None:
    done = world.vedr("run", "key-backup", "--region", "us-east")
    assert done.returncode == 3
    assert "no passphrase was ever put into escrow" in done.stdout + done.stderr
    assert world.vedr("ledger", "list").returncode == 0


def test_the_first_passphrases_are_made_by_a_rotation(world: World) -> None:
    done = world.vedr("keys", "rotate-passphrase", "--json")
    assert done.returncode == 0, done.stderr
    assert [(row["kind"], row["epoch"]) for row in json.loads(done.stdout)] == [
        ("validator", 1), ("node", 1), ("provider", 1),
    ]  # fmt: skip
    assert len(world.passphrases()) == 3


def test_in_prefect_every_key_of_a_region_is_backed_up_and_shown_by_fingerprint_only(world: World) -> None:
    done = world.flow('{"region": "us-east", "even_if_fresh": true}')
    assert done.returncode == 0, done.stderr[-3000:]
    assert "completed" in done.stdout
    listed = json.loads(world.vedr("keys", "list", "--json").stdout)
    assert len(listed["backups"]) == 5
    assert all(one["regions"] == list(CLOUD) for one in listed["backups"])
    (world.folder / "flow.out").write_text(done.stdout + done.stderr)


def test_a_backup_is_inspected_verified_and_restored(world: World, tmp_path: Path) -> None:
    listed = json.loads(world.vedr("keys", "list", "--kind", "validator", "--json").stdout)["backups"]
    [one] = listed
    inspected = world.vedr("keys", "inspect", one["id"])
    assert inspected.returncode == 0
    assert one["keys"][0]["public_key"] in inspected.stdout.replace("\n", "")
    verified = world.vedr("keys", "verify", "--json")
    assert verified.returncode == 0, verified.stderr
    assert len(json.loads(verified.stdout)["checked"]) == 5
    restored = world.vedr("keys", "restore", one["id"], "--out", str(tmp_path / "out"))
    assert restored.returncode == 0, restored.stderr
    key = "config/priv_validator_key.json"
    live = world.folder / "home" / "nodes" / "validator-us-east" / key
    assert (tmp_path / "out" / key).read_bytes() == live.read_bytes()
    again = world.vedr("keys", "restore", one["id"], "--out", str(tmp_path / "out"))
    assert again.returncode == 2
    recovery = f"file:{world.folder / 'home' / 'secrets' / 'recovery.hex'}"
    by_shares = world.vedr("keys", "restore", one["id"], "--out", str(tmp_path / "o2"), "--recovery-key", recovery)
    assert by_shares.returncode == 0, by_shares.stderr
    assert (tmp_path / "o2" / key).read_bytes() == live.read_bytes()
    into_home = world.vedr("keys", "restore", one["id"])
    assert into_home.returncode == 6  # no supervisor tells whether the unit runs: nothing was written
    assert world.vedr("keys", "inspect", "20260101T000000Z-node-x").returncode == 6


def test_status_is_true_to_the_keys_ages(world: World) -> None:
    young = world.vedr("keys", "status", "--region", "us-east", "--json")
    assert young.returncode == 0, young.stderr
    assert {one["status"] for one in json.loads(young.stdout)} == {"ok"}
    node = world.folder / "home" / "nodes" / "full-eu-west" / "config" / "node_key.json"
    long_ago = time.time() - 400 * 86400
    os.utime(node, (long_ago, long_ago))
    backed_up = world.vedr("keys", "backup", "--region", "eu-west", "--json")
    assert backed_up.returncode == 0, backed_up.stderr
    old = world.vedr("keys", "status", "--region", "eu-west")
    assert old.returncode == 3
    assert "due" in old.stdout


def test_a_rotation_over_the_real_protocol_leaves_every_backup_readable(world: World) -> None:
    done = world.vedr("keys", "rotate-passphrase", "--kind", "node", "--json")
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)
    assert (row["epoch"], row["retired"], row["rewrapped"], row["verified"]) == (2, [1], 6, 6)
    assert world.vedr("keys", "verify").returncode == 0


def test_what_a_region_lacks_or_was_never_backed_up_is_no_success(world: World) -> None:
    home = world.folder / "home"
    text = world.site.read_text()
    cut_off, grown = home / "cut-off.toml", home / "grown.toml"
    cut_off.write_text(re.sub(r'(?s)(bucket = "[^"]*)("(?!.*bucket = ))', r"\1-gone\2", text))
    one = ("--owner", "full-us-east", "--kind", "node")
    partly = world.vedr("keys", "backup", *one, "--site", str(cut_off))
    assert partly.returncode == 3
    assert "in us-east, eu-west; not in ap-south" in partly.stdout
    looked = world.vedr("keys", "verify", "--region", "us-east", "--site", str(cut_off))
    assert looked.returncode == 3
    assert "node-full-us-east in ap-south: " in looked.stderr
    assert world.vedr("keys", "backup", *one).returncode == 0

    grown.write_text(text.replace('"full-us-east"', '"full-us-east-new"'))
    new = world.vedr("keys", "status", "--site", str(grown))
    assert new.returncode == 3
    assert "never backed up, so of unknown age: " in new.stderr
    assert "full-us-east-new (node)" in new.stderr


def test_a_defect_of_the_daemons_own_backup_fails_the_job_after_everything_else_was_stored(world: World) -> None:
    bad = world.folder / "home" / "providers" / "ap-south" / "keys" / "old.json"
    world.maker.secret(bad, b"{}")
    done = world.flow('{"region": "ap-south", "even_if_fresh": true}')
    assert done.returncode != 0
    assert "VerificationFailedError" in done.stderr
    listed = json.loads(world.vedr("keys", "list", "--region", "ap-south", "--json").stdout)["backups"]
    assert len(listed) == 4
    bad.unlink()
    (world.folder / "flow-failed.out").write_text(done.stdout + done.stderr)


def test_the_needles_are_nowhere(world: World) -> None:
    """Database, results, logs, events, artifacts, ledger, buckets: every secret in every spelling."""
    needles = world.needles()
    assert len(needles) > 100
    until(_flow_runs_ended, 60, "Prefect has written what it writes")
    haystack: list[tuple[str, bytes]] = []
    for path in world.prefect.rglob("*"):
        if path.is_file():
            haystack.append((str(path), path.read_bytes()))
            haystack += [(f"{path} decoded", one) for one in _decoded(path)]
    stored = [path for path in world.buckets.rglob("*") if path.is_file()]
    assert any(path.suffix == ".vedrkey" or ".vedrkey" in str(path) for path in stored)
    haystack += [(str(path), path.read_bytes()) for path in stored]
    haystack += [(str(path), path.read_bytes()) for path in world.folder.glob("*.out")]
    haystack += [(str(path), path.read_bytes()) for path in world.folder.glob("*.log")]
    database = next(world.prefect.glob("*.db"))
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        for (table,) in connection.execute("select name from sqlite_master where type='table'").fetchall():
            rows = connection.execute(f'select * from "{table}"').fetchall()  # noqa: S608 (its own names)
            haystack.append((table, repr(rows).encode()))
    connection.close()
    assert any(b"vedr.run" in content for _, content in haystack)  # events are there, so the search sees something
    listed = json.loads(world.vedr("keys", "list", "--json").stdout)["backups"]
    public = listed[0]["keys"][0]["fingerprint"].encode()
    assert any(public in content for _, content in haystack)  # and it finds what is there to be found
    for where, content in haystack:
        for needle in needles:
            assert needle not in content, f"a secret is in {where}"


def _decoded(path: Path) -> list[bytes]:
    """Persisted results are JSON around base64 of a pickle: plain search would miss what is in them."""
    try:
        document = json.loads(path.read_bytes())
        return [base64.b64decode(document["result"])]
    except (ValueError, KeyError, TypeError):
        return []


def _flow_runs_ended() -> bool:
    runs = asked("POST", "/flow_runs/filter", {"flows": {"name": {"any_": ["key-backup"]}}})
    return bool(runs) and all(run["state_type"] in ("COMPLETED", "FAILED") for run in runs)


def test_no_process_shows_a_secret_on_its_command_line_or_in_its_environment(world: World) -> None:
    needles = world.needles()
    command = [sys.executable, "-c", "from vedr.cli import main; main()", "keys", "backup", "--region", "us-east"]
    process = subprocess.Popen(
        command,
        env=world.env | {"VEDR_PLAIN": "1"},
        cwd=world.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seen = 0
    while process.poll() is None:
        for name in ("cmdline", "environ"):
            try:
                content = Path(f"/proc/{process.pid}/{name}").read_bytes()
            except OSError:
                continue
            seen += 1
            assert not any(needle in content for needle in needles)
        time.sleep(0.05)
    assert seen
    assert process.returncode == 0
