"""`vedr hsm`: references of keys in hardware, the check of their replicas, inventory."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vedr.adapters import pkcs11_token_site as tokens
from vedr.adapters.site import open_site
from vedr.cli.output import JsonFlag, SiteOption, print_json, stdout
from vedr.custody.hsm_check import Replication
from vedr.custody.hsm_inventory import Inventory, Unanswered
from vedr.custody.hsm_reference import ROLES, Role
from vedr.errors import InvalidInputError

app = typer.Typer()


@app.command("reference")
def reference_command(
    label: Annotated[str, typer.Argument(help="The key's label (CKA_LABEL), the same on every token.")],
    *,
    role: Annotated[str, typer.Option(help="What the key is for: validator, node or provider.")] = "validator",
    primary: Annotated[
        str | None, typer.Option(help="Region whose public key counts; default: the first --region.")
    ] = None,
    region: Annotated[
        list[str] | None, typer.Option("--region", help="Where the key is; default: every region with a token.")
    ] = None,
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Examine a key on every token and store what they must agree with from now on; never key material."""
    with open_site(site) as opened:
        reference, stored = tokens.make(opened, label, role=_role(role), primary=primary, regions=region or ())
    if as_json:
        print_json(
            {
                "label": reference.name.label,
                "id": reference.name.key_id.hex(),
                "type": reference.public.kind,
                "public_key": reference.public.spki.hex(),
                "consensus_address": reference.consensus_address,
                "tokens": {name: token.facts.serial for name, token in reference.tokens.items()},
                "stored_in": list(stored),
            }
        )
        return
    stdout.print(f"[bold]{reference.name.label}[/]: {reference.public.kind}, public key {reference.public.fingerprint}")
    if reference.consensus_address:
        stdout.print(f"  consensus address {reference.consensus_address} on {reference.chain_id}")
    for name, token in reference.tokens.items():
        stdout.print(f"  {name}: {token.role} on token {token.facts.serial} ({token.facts.model})")
    stdout.print(f"  stored in {', '.join(stored)}")


@app.command("check")
def check_command(
    label: Annotated[str | None, typer.Argument(help="The key's label; default: every key with a reference.")] = None,
    *,
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Let every token sign a fresh challenge, and verify it under the reference; exit 3 unless all pass."""
    with open_site(site) as opened:
        results = list(tokens.check(opened, label))
    if as_json:
        print_json([result.as_json() for result in results])
    else:
        stdout.print(_replication_table(results))
    for result in results:
        result.require_whole()


@app.command("inventory")
def inventory_command(
    *,
    region: Annotated[str | None, typer.Option(help="Whose token; default: every token.")] = None,
    site: SiteOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List every key on the tokens and what is wrong with it; exit 3 if anything is."""
    with open_site(site) as opened:
        found = list(tokens.inventory(opened, region))
    if as_json:
        print_json([each.as_json() for each in found])
    else:
        stdout.print(_inventory_table(found))
    for each in found:
        each.require_clean()


def _role(text: str) -> Role:
    for role in ROLES:
        if role == text:
            return role
    raise InvalidInputError(f"--role {text}: unknown", remedy=f"Use one of: {', '.join(ROLES)}.")


def _replication_table(results: list[Replication]) -> Table:
    table = Table("key", "region", "result", "took", "changed since the reference")
    for result in results:
        for token in result.tokens:
            verdict = "[green]signed[/]" if token.passed else f"[red]{escape(token.problem)}[/]"
            changed = ", ".join(token.changes) or "-"
            table.add_row(result.reference.name.label, token.region, verdict, f"{token.took_s * 1000:.0f} ms", changed)
        for region in result.unnamed:
            table.add_row(result.reference.name.label, region, "no replica by the reference", "", "")
        if result.problem:
            table.add_row(result.reference.name.label, "", f"[red]{escape(result.problem)}[/]", "", "")
    return table


def _inventory_table(found: list[Inventory | Unanswered]) -> Table:
    table = Table("region", "key", "id", "class", "type", "public key", "problems")
    for each in found:
        if isinstance(each, Unanswered):
            table.add_row(each.region, "", "", "", "", "", f"[red]{escape(each.problem)}[/]")
            continue
        for key in each.objects:
            faults = {p.fault for p in each.problems if (p.label, p.key_id) == (key.label, key.key_id)}
            public = "-" if key.public is None else key.public.fingerprint
            row = (each.region, escape(key.label), key.key_id.hex(), key.object_class, key.key_type, public)
            table.add_row(*row, ", ".join(sorted(faults)) or "-")
        for problem in each.problems:
            if problem.fault == "missing":
                table.add_row(each.region, problem.label, problem.key_id.hex(), "", "", "", "[red]missing[/]")
    return table
