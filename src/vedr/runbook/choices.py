"""What a site has that an order may name: the lists of the run forms, and the same lists for whoever types.

Guarantees: an order that names a node, zone, region or owner which the site does not have is refused before a run of it
is opened, planned or told to anybody; the message names those that there are.
Leaves out: whether what is named is lost, healthy or fit for it, which each runbook's preflight finds out.
"""

from collections.abc import Mapping
from typing import Final

from vedr.errors import NotFoundError
from vedr.inventory import Site
from vedr.runbook.order import Order

MARK: Final = "vedr_choices"
"""In a field's `json_schema_extra`: which of these lists it chooses from.  Where the default is empty, so may it be."""


def offered(site: Site) -> Mapping[str, list[str]]:
    """What the site offers, by the mark's value."""
    zones = [zone for region in site.regions_by_priority for zone in site.regions[region].zones]
    return {
        "nodes": [node.name for node in site.nodes],
        "regions": list(site.regions_by_priority),
        "zones": zones,
        "places": [*site.regions_by_priority, *zones],
        "nodes_and_places": [*(node.name for node in site.nodes), *site.regions_by_priority, *zones],
        "providers": [provider.name for provider in site.providers],
        "key_owners": [*(node.name for node in site.nodes), *(provider.name for provider in site.providers)],
    }


def check_choices(order: Order, site: Site) -> None:
    """NotFoundError for the first field that names what the site does not have."""
    for name, field in type(order).model_fields.items():
        extra = field.json_schema_extra
        if not isinstance(extra, dict) or not isinstance(kind := extra.get(MARK), str):
            continue
        value, known = getattr(order, name), offered(site)[kind]
        if value not in known and not (value == "" == field.default):
            raise NotFoundError(
                f"{name} is {value!r}, which site {site.name} does not have",
                remedy=f"Choose one of: {', '.join(known)}.",
            )
