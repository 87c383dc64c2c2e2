"""Two people's word within a step: a risk that no machine can judge is put to them in full, and they take it or not.

Guarantees: two different people agreed to exactly this sentence after it was asked, whatever the site's approvals ask
of the runbook; an answer that was given to an earlier question counts for nothing.
Leaves out: who a person is (docs/approval.md), and what may rest on their word (`vedr.chain.attestation`).
"""

from collections.abc import Sequence
from typing import Final

from vedr.adapters.site import utc_now
from vedr.chain.attestation import Statement
from vedr.runbook.order import Order
from vedr.runbook.plan import Action, Plan
from vedr.runbook.steps import Context

READ: Final = "agree only to what you have seen yourself; who agrees says the sentence above, with their name"
NO_HURRY: Final = (
    "refusing costs about 0.01 % of the stake and can be cured: the key stays fenced until this is resumed"
)


def risk_plan(subject: str, sentence: str, asked_at: str) -> Plan:
    """What is shown; the time makes it a question of its own, so that no older answer fits."""
    return Plan(
        title=f"the word of two different people on {subject}",
        actions=(Action("go on, on their word", subject, 0, "nothing but this sentence covers it"),),
        notes=(f"asked at {asked_at}, holds for an hour", READ, NO_HURRY),
        warnings=(sentence,),
    )


def two_people_say(ctx: Context[Order], subject: str, sentence: str) -> Sequence[Statement]:
    """Ask, and wait for `vedr approve`; RefusedError when one refuses or too few answer in time."""
    answers = ctx.ask(risk_plan(subject, sentence, utc_now().isoformat()), "two")
    return tuple(Statement(answer.person, sentence, answer.time) for answer in answers)
