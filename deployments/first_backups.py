# ruff: noqa: INP001 - a script, no package
"""After `vedr lab up`: a first snapshot from every region that has none, each proven by booting a node from it;
the first backups of the providers' states, of the configuration and of every key, the first passphrases in escrow, and
the reference of every key on the tokens.

Run by `make up`; uses only what anybody has, the `vedr` command.  Ends with the first command's status that isn't 0.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

VEDR = str(Path(sys.executable).with_name("vedr"))


def main() -> int:
    """Take, prove, list, and say what to try next."""
    lab = os.environ.get("VEDR_SITE", "lab")
    regions = json.loads(vedr("site", "show", "--json"))["regions"]
    have = {snapshot["origin"] for snapshot in json.loads(vedr("snapshot", "list", "--json"))["snapshots"]}
    missing = [region for region in regions if region not in have]
    for region in missing:
        show("snapshot", "create", "--region", region)
    if missing:
        show("check", "boot-verification", "--boot")
    states = json.loads(vedr("snapshot", "list", "--kind", "provider", "--json"))["snapshots"]
    for region in [region for region in regions if region not in {state["origin"] for state in states}]:
        show("run", "provider-state-backup", "--region", region)
        show("run", "config-backup", "--region", region)
    show("snapshot", "list")
    if not json.loads(vedr("keys", "list", "--json"))["backups"]:
        vedr("keys", "rotate-passphrase")
        show("keys", "backup")
        validators = [node["name"] for node in json.loads(vedr("site", "show", "--json"))["nodes"] if node["power"]]
        for validator in validators:
            show("hsm", "reference", validator)
    name, site = ("", "") if lab == "lab" else (f" --name {lab}", f" --site {lab}")
    sys.stdout.write(f"""
Try next (`. .venv/bin/activate` first):
  vedr lab status{name}
  vedr lab kill fullnode-eu-west-0{name}
  vedr run RB-DR-001 --node fullnode-eu-west-0{site}        or start it in Prefect's pages
  vedr lab kill us-east{name}; vedr run RB-DR-003 --region us-east{site}
  vedr lab start us-east{name}; vedr run failback --place us-east{site}
  vedr ledger list{site}
  vedr check{site}, vedr topology{site}, vedr keys list{site}, vedr signer status --validator validator-us-east-0{site}
""")
    return 0


def vedr(*arguments: str) -> str:
    """What the command prints; its errors go to the terminal."""
    return subprocess.run([VEDR, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def show(*arguments: str) -> None:
    """Run the command for people to see."""
    sys.stdout.flush()
    subprocess.run([VEDR, *arguments], check=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failed:
        sys.exit(failed.returncode)
