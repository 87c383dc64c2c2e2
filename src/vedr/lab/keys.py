"""Keys that stand where production has them: validators' on every region's token, provider daemons' in their homes.

Guarantees: made or imported once; what is there is left as it is.
Leaves out: taking the key files of validators away: lab validators sign from files until a signer is put before them.
"""

import base64
import json
from pathlib import Path
from typing import Final

from vedr.adapters.pkcs11_token_process import TokenProcess
from vedr.custody.key_material import SEED_BYTES, VALIDATOR_FILE, new_key_file
from vedr.inventory import Hsm
from vedr.lab.credentials import TOKEN_LABEL_PREFIX, LabSecrets, write_whole
from vedr.lab.plan import Plan, PlannedNode
from vedr.lab.site_file import pkcs11_module

PROVIDER_KEY: Final = "keys/provider.pem"


def put_on_tokens(plan: Plan, addresses: dict[str, str]) -> int:
    """Every validator's key on every region's token, as a replicated HSM holds them; how many tokens were filled."""
    return sum(_fill(plan, region, addresses) for region in plan.regions)


def make_provider_keys(plan: Plan) -> None:
    for provider in plan.providers:
        path = plan.provider_home(provider) / PROVIDER_KEY
        if not path.exists():
            write_whole(path, new_key_file("provider", PROVIDER_KEY).content.decode("ascii"))


def _fill(plan: Plan, region: str, addresses: dict[str, str]) -> bool:
    secrets = LabSecrets(plan.folder)
    done = secrets.hsm_config(region).with_name("filled")
    if done.exists():
        return False
    pin = secrets.hsm_pin(region)
    hsm = Hsm(
        module=pkcs11_module(),
        token_label=f"{TOKEN_LABEL_PREFIX}{region}",
        pin=f"file:{pin}",
        config=secrets.hsm_config(region),
    )
    with TokenProcess(hsm, pin.read_bytes, writable=True) as token:
        for node in plan.nodes:
            if node.role == "validator":
                token.import_ed25519(_seed(node), label=node.name, key_id=bytes.fromhex(addresses[node.name]))
    done.touch()
    return True


def _seed(node: PlannedNode) -> bytes:
    """CometBFT keeps the seed and the public key, in that order."""
    stored = json.loads((Path(node.home) / VALIDATOR_FILE).read_bytes())
    return base64.b64decode(stored["priv_key"]["value"])[:SEED_BYTES]
