"""The controller's numbers, in Prometheus' text format."""

from collections import Counter

from vedr.failover.controller_loop import Cycle

_STATES = ("up", "down", "unknown")


class Tally:
    """What a process has seen and done since it began; fed by one thread, read by another."""

    def __init__(self, vantage: str) -> None:
        self._vantage = vantage
        self._newest: tuple[Cycle, float] | None = None
        self._cycles = 0
        self._actions: Counter[tuple[str, str]] = Counter()

    def add(self, cycle: Cycle, *, took_s: float) -> None:
        """Count a round."""
        self._newest = cycle, took_s
        self._cycles += 1
        for decision in cycle.decisions:
            if decision.action in ("propose", "start", "resume", "close"):
                self._actions[decision.action, decision.domain.kind] += 1

    def text(self) -> str:
        """Everything, at this moment."""
        if self._newest is None:
            return "# TYPE vedr_controller_cycles_total counter\nvedr_controller_cycles_total 0\n"
        cycle, took_s = self._newest
        standing = cycle.standing
        families: dict[str, list[str]] = {
            "vedr_controller_cycles_total counter": [f"{{}} {self._cycles}"],
            "vedr_controller_last_cycle_timestamp_seconds gauge": [f"{{}} {cycle.at.timestamp():.3f}"],
            "vedr_controller_cycle_seconds gauge": [f"{{}} {took_s:.3f}"],
            "vedr_controller_lease_held gauge": [f"{{}} {int(standing.is_held)}"],
            "vedr_controller_lease_epoch gauge": [f"{{}} {standing.epoch}"],
            "vedr_controller_published_regions gauge": [f"{{}} {len(cycle.published)}"],
            "vedr_controller_decisions_total counter": [
                f'{{action="{action}",kind="{kind}"}} {count}'
                for (action, kind), count in sorted(self._actions.items())
            ],
            "vedr_controller_verdict gauge": [
                f'{{kind="{domain.kind}",name="{domain.name}",state="{state}"}} {int(verdict.confirmed == state)}'
                for domain, verdict in cycle.verdicts.items()
                for state in _STATES
            ],
            "vedr_controller_failed_probes gauge": [
                f'{{kind="{domain.kind}",name="{domain.name}"}} {verdict.bad}'
                for domain, verdict in cycle.verdicts.items()
            ],
            "vedr_controller_agreed_down gauge": [
                f'{{kind="{domain.kind}",name="{domain.name}"}} {int(agreement.state == "down")}'
                for domain, agreement in cycle.agreements.items()
            ],
            "vedr_controller_outage_open gauge": [
                f'{{kind="{domain.kind}",name="{domain.name}",state="{outage.state}"}} 1'
                for domain, outage in standing.page.outages.items()
                if outage.is_open
            ],
            "vedr_controller_report_age_seconds gauge": [
                f'{{of="{vantage}"}} {max(0.0, (cycle.at - report.heard_at).total_seconds()):.3f}'
                for vantage, report in cycle.reports.items()
            ],
        }
        lines = []
        for family, samples in families.items():
            name = family.split(" ")[0]
            lines.append(f"# TYPE {family}")
            lines += [f"{name}{self._labelled(sample)}" for sample in samples]
        return "\n".join(lines) + "\n"

    def _labelled(self, sample: str) -> str:
        """The vantage point goes with every sample."""
        more = "," if not sample.startswith("{}") else ""
        return f'{{vantage="{self._vantage}"{more}{sample[1:]}'
