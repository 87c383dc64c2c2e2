"""Validators that sign from an HSM: their nodes wait for `vedr signer`, and no key file of theirs is left in the lab.

Guarantees: done before a node first runs, so that no key ever signed from a file; may be repeated.
Leaves out: starting signers (units), and standbys, whose nodes a failover makes wait for them.
"""

from typing import Final

from vedr.adapters.privval_signer import register_of
from vedr.adapters.site import OpenSite
from vedr.chain.node_config import set_signer_address
from vedr.chain.register import NEVER_SIGNED
from vedr.custody.key_material import VALIDATOR_FILE
from vedr.inventory import Site
from vedr.lab.plan import Plan

LOOK_DEADLINE_S: Final = 5.0


def put_before(plan: Plan) -> None:
    """Make the validators' nodes wait for their signers; the tokens hold the keys by now, their files go.

    Only at home: a node that waits already may be a standby at work, whose configuration is a runbook's.
    """
    for signer in plan.signers:
        if not signer.is_standby:
            set_signer_address(signer.node.home, signer.listen)
            (signer.node.home / VALIDATOR_FILE).unlink(missing_ok=True)


def found_registers(site: Site) -> int:
    """Found the register of every such validator that has none yet; how many."""
    founded = 0
    with OpenSite(site) as opened:
        for validator in sorted({signer.validator for signer in site.signers}):
            register = register_of(opened, site.node(validator))
            if not register.look(deadline_s=LOOK_DEADLINE_S).contents:
                register.found(NEVER_SIGNED)
                founded += 1
    return founded
