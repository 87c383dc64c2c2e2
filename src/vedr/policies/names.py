"""The forms of names and references in a site file."""

from typing import Annotated, Literal

from pydantic import StringConstraints

NodeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
RegionName = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}-[a-z]+(-[a-z0-9]+)?$")]
ZoneName = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}-[a-z]+-[a-z0-9]+$")]
HexKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SecretRef = Annotated[str, StringConstraints(pattern=r"^(file:/|env:[A-Z]|aws-secret:[a-z]).*$")]
"""Where a secret is kept, never the secret: `file:/path`, `env:NAME` or `aws-secret:name`."""
Role = Literal["validator", "full", "archive"]
