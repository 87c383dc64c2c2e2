"""What the lab needs from the machine.

Guarantees: everything that is missing is named at once, each with the command that brings it.
Leaves out: installing, which deployments/bootstrap does.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vedr.errors import InvalidInputError
from vedr.lab import vault
from vedr.lab.plan import Plan
from vedr.lab.site_file import HSM_MODULES

_BUILD: Final = "make build"


@dataclass(frozen=True, slots=True)
class Tool:
    program: str
    purpose: str
    how: str


_SYSTEM: Final = (
    Tool("knotd", "the lab's name server", "apt-get install knot"),
    Tool("nginx", "the API gateways and Prefect's front", "apt-get install nginx-light"),
    Tool("softhsm2-util", "a PKCS#11 token in each region", "apt-get install softhsm2"),
)
_ROOT: Final = (Tool("ip", "zones as network namespaces", "apt-get install iproute2"),)
_OURS: Final = {
    "labnode": "the chain's nodes",
    "labzoned": "the zones' supervisors",
    "labprovider": "the provider daemons",
    "labload": "the load generator",
    "labs3": "the S3 servers",
}


def require(plan: Plan) -> None:
    """Raises InvalidInputError naming everything that the lab lacks."""
    missing = [tool for tool in _wanted(plan) if not shutil.which(tool.program)]
    problems = [f"{tool.program} ({tool.purpose}) is missing: {tool.how}" for tool in missing]
    if not any(module.exists() for module in HSM_MODULES):
        problems.append("libsofthsm2.so (the PKCS#11 module) is missing: apt-get install softhsm2")
    if problems:
        raise InvalidInputError("\n".join(problems), remedy="`make bootstrap` as root installs all of it.")


def _wanted(plan: Plan) -> Iterable[Tool]:
    yield from _SYSTEM
    if plan.settings.mode == "namespaces":
        yield from _ROOT
    yield Tool(vault.command(plan)[0], "the secrets manager", "pip install 'moto[server]'")
    for name, purpose in _OURS.items():
        yield Tool(str(plan.settings.programs / name), purpose, _BUILD)
