"""A secrets manager in memory, in several regions: vedr.custody.escrow.SecretVault with regions that can be lost.

Guarantees: passes the contract suite of the real one (tests/contract/test_secret_vault.py).
Leaves out: keeping anything beyond the process.
"""

from vedr.errors import ConflictError, NotFoundError, UnavailableError


class MemoryVault:
    """Secrets by region and name.  `down`: regions that do not answer; `slow`: regions that get no copies yet."""

    def __init__(self, *regions: str) -> None:
        self._regions = regions
        self.values: dict[str, dict[str, bytes]] = {region: {} for region in regions}
        self.retired: set[str] = set()
        self.down: set[str] = set()
        self.slow: set[str] = set()

    @property
    def regions(self) -> tuple[str, ...]:
        return self._regions

    def create(self, name: str, value: bytes) -> None:
        for region in self._regions:
            self._check(region)
        if name in self.retired or any(name in values for values in self.values.values()):
            raise ConflictError(f"secret {name} exists already", remedy="It is never changed: read it.")
        self.values[self._regions[0]][name] = value
        self.replicate(name)

    def replicate(self, name: str) -> None:
        value = next((self.values[r][name] for r in self._answering() if name in self.values[r]), None)
        if value is None:
            raise NotFoundError(f"secret {name} is in no region", remedy="Check its name.")
        for region in self._answering():
            if region not in self.slow:
                self.values[region].setdefault(name, value)

    def read(self, name: str, region: str) -> bytes:
        self._check(region)
        if name not in self.values[region]:
            raise NotFoundError(f"secret {name} is not in {region}", remedy="Read it in another region.")
        return self.values[region][name]

    def names(self, prefix: str, region: str) -> tuple[str, ...]:
        self._check(region)
        return tuple(name for name in self.values[region] if name.startswith(prefix))

    def retire(self, name: str) -> None:
        for region in self._regions:
            self._check(region)
        for values in self.values.values():
            if values.pop(name, None) is not None:
                self.retired.add(name)

    def _answering(self) -> list[str]:
        return [region for region in self._regions if region not in self.down]

    def _check(self, region: str) -> None:
        if region in self.down:
            raise UnavailableError(f"{region} does not answer", remedy="Try again later.")
