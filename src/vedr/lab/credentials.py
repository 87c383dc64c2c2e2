"""The keys and credentials that a lab makes for itself.

Guarantees: each is made once and never replaced, is readable by its owner only (0600), and is written whole or not at
all.  They protect nothing but the lab; production's come from a secrets manager.
"""

import base64
import json
import os
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from vedr.errors import UnavailableError
from vedr.lab.plan import Plan
from vedr.signature import Signer

SITE_KEY_BYTES: Final = 32  # AES-256
TSIG_KEY_NAME: Final = "vedr"
TSIG_ALGORITHM: Final = "hmac-sha256"
TSIG_KEY_BYTES: Final = 32  # RFC 8945: at least the length of the hash
TOKEN_LABEL_PREFIX: Final = "vedr-"  # noqa: S105 - a label, no secret
_INIT_TOKEN_LIMIT_S: Final = 30


class LabSecrets:
    """Paths of a lab's secrets, and what may be shown of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "secrets"
        self.agent_token = self.folder / "agent.token"
        self.signing_key = self.folder / "signing.pem"
        self.site_key = self.folder / "site.key"
        self.tsig = self.folder / "dns.key"
        self.recovery_key = self.folder / "recovery.key"
        self.vault_credentials = self.folder / "vault.json"
        self.vault_record = self.folder / "vault-requests.jsonl"
        self.hsm_folder = folder / "hsm"

    def store_credentials(self, region: str) -> Path:
        return self.folder / f"s3-{region}.json"

    def hsm_pin(self, region: str) -> Path:
        return self.folder / f"hsm-{region}.pin"

    def hsm_config(self, region: str) -> Path:
        return self.hsm_folder / region / "softhsm2.conf"

    def read_store_credentials(self, region: str) -> tuple[str, str]:
        """(access key, secret key)."""
        found = json.loads(self.store_credentials(region).read_text(encoding="utf-8"))
        return found["access_key"], found["secret_key"]

    def read_tsig(self) -> str:
        """The key's base64 secret, as DNS servers want it."""
        return self.tsig.read_text(encoding="utf-8").strip().split(":")[2]

    def public_key_hex(self) -> str:
        """The public half of the signing key."""
        return Signer.from_pem(self.signing_key.read_bytes()).public_hex

    def recovery_public_hex(self) -> str:
        """The public half of the key that opens key backups when no passphrase is left."""
        return X25519PrivateKey.from_private_bytes(self.read_recovery_key()).public_key().public_bytes_raw().hex()

    def read_recovery_key(self) -> bytes:
        """Its private half, which the custodians' shares give as well."""
        return bytes.fromhex(self.recovery_key.read_text(encoding="ascii"))

    def create_missing(self, plan: Plan) -> None:
        """Make every secret that is not there yet."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _once(self.agent_token, lambda: secrets.token_urlsafe(32))
        _once(self.signing_key, _new_signing_key)
        _once(self.site_key, lambda: secrets.token_hex(SITE_KEY_BYTES))
        _once(self.tsig, _new_tsig)
        _once(self.recovery_key, lambda: X25519PrivateKey.generate().private_bytes_raw().hex())
        _once(self.vault_credentials, _new_store_credentials)
        for region in plan.regions:
            _once(self.store_credentials(region), _new_store_credentials)
            _once(self.hsm_pin(region), lambda: str(secrets.randbelow(90_000_000) + 10_000_000))

    def create_missing_tokens(self, plan: Plan) -> int:
        """Initialise each region's SoftHSM token where there is none; returns how many were made."""
        return sum(self._create_token(region) for region in plan.regions)

    def _create_token(self, region: str) -> bool:
        config = self.hsm_config(region)
        tokens = config.parent / "tokens"
        done = config.parent / "initialised"
        if done.exists():
            return False
        tokens.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        pin = self.hsm_pin(region).read_text(encoding="utf-8")
        # softhsm2-util takes PINs only on its command line or a terminal; the lab's PIN is shown to this machine's
        # users for that moment.
        made = subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", f"{TOKEN_LABEL_PREFIX}{region}",
             "--pin", pin, "--so-pin", pin],
            env={**os.environ, "SOFTHSM2_CONF": str(config)},
            capture_output=True, text=True, check=False, timeout=_INIT_TOKEN_LIMIT_S,
        )  # fmt: skip
        if made.returncode:
            raise UnavailableError(
                f"softhsm2-util could not make region {region}'s token: {made.stderr.strip() or made.stdout.strip()}",
                remedy=f"Check that {tokens} can be written.",
            )
        done.touch()
        return True


def write_whole(path: Path, content: str, *, mode: int = 0o600) -> None:
    """Write, sync and rename, so that a crash leaves the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.touch(mode=mode)
    with draft.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _once(path: Path, make: Callable[[], str]) -> None:
    if not path.exists():
        write_whole(path, make())


def _new_signing_key() -> str:
    return (
        Ed25519PrivateKey.generate()
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def _new_store_credentials() -> str:
    return json.dumps({"access_key": f"lab{secrets.token_hex(8)}", "secret_key": secrets.token_urlsafe(30)})


def _new_tsig() -> str:
    return f"{TSIG_ALGORITHM}:{TSIG_KEY_NAME}:{base64.b64encode(secrets.token_bytes(TSIG_KEY_BYTES)).decode()}\n"
