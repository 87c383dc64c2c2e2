"""The pages' HTML, as Jinja templates that escape everything.

Nothing is loaded from anywhere: the style is in the page, pictures are inline SVG, and the content security policy
forbids scripts and requests, so that text from a ledger can't do anything even where escaping failed.
"""

import functools
import json
from typing import Final

from jinja2 import DictLoader, Environment, StrictUndefined

from vedr.reports.svg import shown
from vedr.reports.words import moment, span
from vedr.signature import Json

SEAL_PLACE: Final = '<script type="application/json" id="vedr-evidence"></script>'
"""Where the signed document goes; the page's hash is taken with it empty."""

_BASE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{% block title %}{% endblock %}</title>
<style>
:root{--ink:#16202b;--soft:#5b6875;--paper:#fff;--card:#f4f6f8;--line:#d4dae0;--good:#1a7f4b;--bad:#c62828;--warn:#9a5b00}
@media (prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa7b4;--paper:#12181f;--card:#1a222b;--line:#33404d;
--good:#4cc38a;--bad:#ff6b6b;--warn:#f0a94a}}
@media print{:root{--ink:#16202b;--soft:#5b6875;--paper:#fff;--card:#f4f6f8;--line:#d4dae0;--good:#1a7f4b;--bad:#c62828;
--warn:#9a5b00}section,tr,.card{break-inside:avoid}.long{break-inside:auto}}
@page{size:A4;margin:15mm}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1040px;padding:24px 20px;color:var(--ink);background:var(--paper);
font:15px/1.45 system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}
h1{font-size:28px;line-height:1.2;margin:2px 0 4px}h2{font-size:18px;margin:30px 0 8px}p{margin:6px 0}
.soft{color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.banner{border-left:8px solid var(--line);background:var(--card);padding:14px 18px;margin:16px 0;border-radius:4px}
.banner.good{border-color:var(--good)}.banner.bad{border-color:var(--bad)}.banner.warn{border-color:var(--warn)}
.banner b{font-size:20px;display:block}.banner p{color:var(--ink)}
.alarm{background:#c62828;color:#fff;padding:14px 18px;border-radius:4px;margin:16px 0;print-color-adjust:exact;
-webkit-print-color-adjust:exact}.alarm b{font-size:20px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(280px,1fr));gap:10px}
.four{grid-template-columns:repeat(auto-fit,minmax(225px,1fr))}
.card{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:10px 12px;overflow-wrap:anywhere}
.card span{display:block;color:var(--soft);font-size:12px}.card strong{font-size:17px}
.card small{display:block;color:var(--soft)}
table{border-collapse:collapse;width:100%;font-size:13px}th{text-align:left;color:var(--soft);font-weight:600}
th,td{padding:5px 8px 5px 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
td.s{white-space:nowrap}td.n,th.n{text-align:right;white-space:nowrap;padding-left:8px}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font:11.5px/1.4 ui-monospace,'DejaVu Sans Mono',monospace}
code{font:12px ui-monospace,'DejaVu Sans Mono',monospace;overflow-wrap:anywhere}
svg{max-width:100%;height:auto;display:block;margin:6px 0}a{color:inherit}
.note{border-left:4px solid var(--line);padding-left:10px;margin:8px 0}
footer{margin-top:36px;border-top:1px solid var(--line);padding-top:10px;font-size:12px;color:var(--soft);
overflow-wrap:anywhere}
@media print{body{font-size:9.5pt;padding:0}h1{font-size:17pt}h2{font-size:12pt}
.cards{grid-template-columns:repeat(3,1fr)}}
</style></head><body>
{% block body %}{% endblock %}
</body></html>
"""

_RUN: Final = """{% extends "base" %}
{% block title %}{{ "EXERCISE " if e.subject == "exercise" }}{{ e.runbook|shown }} {{ e.run_id }}{% endblock %}
{% block body %}
<p class="soft">{{ label|shown }}{{ e.subject|capitalize }} report · site {{ e.site|shown }} · {{ e.run_id }}</p>
<h1>{{ title|shown }}</h1>
{% if e.proof == "unverifiable" %}
<div class="alarm"><b>The ledger of this run does not hold: nothing below is proven.</b>
{% for problem in e.problems %}<p>{{ problem|shown }}</p>{% endfor %}
<p>Shown is what could still be read, up to the first entry that does not fit.  Treat the ledger as tampered with:
<code>vedr ledger export {{ e.run_id }}</code>, compare the regions' copies, tell security.</p></div>
{% endif %}
<div class="banner {{ tone }}"><b class="{{ tone }}">{{ headline|shown }}</b><p>{{ story|shown }}</p>
{% if e.error and e.outcome != "completed" %}<p><span class="bad">{{ e.error|shown }}</span>
{% if e.remedy %}<br>Next: {{ e.remedy|shown }}{% endif %}</p>{% endif %}</div>
<div class="cards">
{% for card in cards %}<div class="card"><span>{{ card.name|shown }}</span>
<strong class="{{ card.tone }}">{{ card.value|shown }}</strong><small>{{ card.more|shown }}</small></div>
{% endfor %}</div>
<section><h2>Time against target</h2>{{ target }}
<p>
{% for name, ms in e.critical_path %}{{ name|shown }} <b>{{ ms|span }}</b>{{ ", " if not loop.last }}{% endfor %}.
Steps follow one another, so each is on the critical path; the longest come first.</p></section>
<section><h2>Time line</h2>{{ gantt }}</section>
<section class="long"><h2>Steps: planned and achieved</h2><table>
<tr><th>Step</th><th>State</th><th class="n">Budget</th><th class="n">Took</th><th class="n">Waited</th>
<th class="n">Tries</th>
<th>Remarks</th></tr>
{% for s in e.steps %}<tr><td>{{ s.row.title|shown }}</td>
<td class="s {{ {'completed': 'good', 'failed': 'bad'}.get(s.row.state, 'soft') }}">{{ s.row.state }}</td>
<td class="n">{{ s.row.budget_ms|span }}</td>
<td class="n {{ 'bad' if s.row.over_budget }}">{{ s.row.took_ms|span if s.row.took_ms is not none else "" }}</td>
<td class="n">{{ s.row.waited_ms|span if s.row.waited_ms else "" }}</td><td class="n">{{ s.row.attempts or "" }}</td>
<td>{% if s.row.over_budget %}<span class="bad">over budget by
{{ (s.row.took_ms - s.row.budget_ms)|span }}</span> {% endif %}
{% if s.resumed %}gone on with after an interruption {% endif %}
{% if s.error %}<span class="bad">{{ s.error|shown }}</span>{% if s.remedy %} Next: {{ s.remedy|shown }}{% endif %}
{% endif %}
</td></tr>{% endfor %}
{% for name, ms in besides %}<tr><td>{{ name|shown }}</td><td></td><td></td><td class="n">{{ ms|span }}</td>
<td colspan="3"></td></tr>{% endfor %}
<tr><td><b>From detection to the end</b></td><td></td><td class="n"><b>{{ e.timing.target_ms|span }}</b></td>
<td class="n"><b>{{ e.timing.total_ms|span }}</b></td><td colspan="3"></td></tr>
</table></section>
<section><h2>Data lost</h2>{% if e.data_lost %}<table><tr><th>Recorded</th><th>Value</th><th>By</th></tr>
{% for f in e.data_lost %}<tr><td>{{ f.name|shown }}</td><td>{{ f.value|shown }}</td>
<td>{{ f.source|shown }}</td></tr>
{% endfor %}</table>
{% else %}<p>No step recorded how much data was lost.  That is not a statement that none was.</p>{% endif %}
</section>
<section><h2>Who approved what</h2>
{% if not e.approvals and not e.asked %}<p>Nobody was asked: the ledger has no question and no answer.</p>{% endif %}
{% if e.approvals %}<table><tr><th>Person</th><th>Said</th><th>Reason</th><th>By way of</th><th>At</th>
<th>Plan</th></tr>
{% for a in e.approvals %}<tr><td>{{ a.person|shown }}</td>
<td class="{{ 'good' if a.approved else 'bad' }}">{{ "approved" if a.approved else "refused" }}</td>
<td>{{ a.why|shown }}</td>
<td>{{ a.via|shown }}</td><td>{{ a.at|shown }}</td><td><code>{{ a.plan[:16]|shown }}</code></td></tr>
{% endfor %}</table>{% endif %}
{% for q in e.asked %}<div class="note"><p>
<b>{{ q.title|shown }}</b>: {{ q.people }} to agree until {{ q.until|shown }},
plan <code>{{ q.digest[:16]|shown }}</code></p>
{% for w in q.warnings %}<p class="warn">{{ w|shown }}</p>{% endfor %}
{% if q.actions %}<table><tr><th>Action</th><th>Where</th><th>Effect</th></tr>
{% for what, where, effect in q.actions %}
<tr><td>{{ what|shown }}</td><td>{{ where|shown }}</td><td>{{ effect|shown }}</td></tr>{% endfor %}</table>
{% endif %}</div>
{% endfor %}</section>
{% if e.remarks %}<section><h2>What else happened</h2><table><tr><th>At</th><th>What</th><th>Detail</th></tr>
{% for r in e.remarks %}<tr><td>{{ r.source }}</td><td>{{ r.name|shown }}</td><td>{{ r.value|shown }}</td></tr>
{% endfor %}
</table></section>{% endif %}
<section><h2>Order, versions, processes</h2><table>
{% for name, value in e.order.items() %}<tr><td>ordered: {{ name|shown }}</td><td>{{ value|json|shown }}</td></tr>
{% endfor %}
{% for f in e.origin %}<tr><td>{{ f.name|shown }} ({{ f.source }})</td><td>{{ f.value|shown }}</td></tr>{% endfor %}
</table></section>
<section><h2>The record</h2>
<p>{{ e.entries|length }} entries of the ledger, chained by SHA-256 and signed, kept in {{ e.regions|join(", ") }}.
State: <b class="{{ {'verified': 'good', 'incomplete': 'warn'}.get(e.proof, 'bad') }}">{{ e.proof }}</b>.
Head: entry {{ e.head_seq }}, <code>{{ e.head }}</code></p>
{% if e.proof == "incomplete" %}{% for problem in e.problems %}<p class="warn">{{ problem|shown }}</p>{% endfor %}
{% endif %}</section>
<section class="long"><h2>What standards ask for</h2>
<table><tr><th>Standard</th><th>Clause</th><th>Asks for</th><th>Evidence</th></tr>
{% for r in requirements %}<tr><td>{{ r.standard }}</td><td>{{ r.clause }}</td><td>{{ r.asks }}</td>
<td>{{ r.evidence }}</td>
</tr>{% endfor %}</table></section>
<section class="long"><h2>Appendix: every entry</h2><table><tr><th>#</th><th>Time (UTC)</th><th>Epoch</th>
<th>Kind</th>
<th>Content</th></tr>
{% for entry in e.entries %}<tr><td>{{ entry.seq }}</td>
<td class="n">{{ entry.time.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] }}</td>
<td>{{ entry.epoch }}</td><td>{{ entry.kind }}</td><td><pre>{{ entry.payload|json|shown }}</pre></td></tr>{% endfor %}
</table></section>
{% include "footer" %}
{% endblock %}
"""

_INDEX: Final = """{% extends "base" %}
{% block title %}Recovery evidence of {{ site|shown }}{% endblock %}
{% block body %}
<p class="soft">{{ label|shown }}site {{ site|shown }} · {{ since }} to {{ until }}</p>
<h1>Recovery evidence</h1>
{% if problems %}<div class="alarm"><b>The ledger does not hold.</b>
{% for problem in problems %}<p>{{ problem|shown }}</p>{% endfor %}</div>{% endif %}
<div class="banner {{ tone }}"><b class="{{ tone }}">{{ headline|shown }}</b><p>{{ story|shown }}</p></div>
<div class="cards four">{% for card in cards %}<div class="card"><span>{{ card.name|shown }}</span>
<strong class="{{ card.tone }}">{{ card.value|shown }}</strong><small>{{ card.more|shown }}</small></div>
{% endfor %}</div>
{% if hints %}<section><h2>To review</h2>{% for hint in hints %}<p class="note">{{ hint|shown }}</p>
{% endfor %}</section>{% endif %}
<section><h2>Achieved recovery time by runbook</h2>
{% for name, picture in rto %}<h3>{{ name|shown }}</h3>{{ picture }}{% endfor %}
{% if not rto %}<p>No incident or drill was completed in this time.</p>{% endif %}</section>
<section><h2>Backups</h2><table><tr><th>Job</th><th class="n">Completed</th><th class="n">Not completed</th>
<th class="n">Newest is old</th><th class="n">Longest gap</th></tr>
{% for job in jobs %}<tr><td>{{ job.name|shown }}</td><td class="n">{{ job.completed }}</td>
<td class="n {{ 'bad' if job.others }}">{{ job.others }}</td>
<td class="n">{{ job.age_ms|span if job.age_ms is not none else "never" }}</td>
<td class="n">{{ job.longest_gap_ms|span if job.longest_gap_ms is not none else "" }}</td></tr>{% endfor %}</table>
{% for name, picture in ages %}<h3>{{ name|shown }}</h3>{{ picture }}{% endfor %}</section>
<section class="long"><h2>Incidents and drills</h2><table><tr><th>Opened</th><th>Run</th><th>Runbook</th>
<th>Result</th>
<th class="n">Achieved</th><th class="n">Target</th><th>Ledger</th></tr>
{% for row in rows %}<tr><td>{{ row.opened }}</td>
<td>{% if row.link %}<a href="{{ row.link }}">{{ row.run_id }}</a>{% else %}{{ row.run_id }}{% endif %}</td>
<td>{{ row.runbook|shown }} {{ row.title|shown }}</td><td class="{{ row.tone }}">{{ row.result|shown }}</td>
<td class="n">{{ row.total_ms|span }}</td><td class="n">{{ row.target_ms|span }}</td>
<td class="{{ row.proof_tone }}">{{ row.proof }}</td></tr>{% endfor %}</table>
{% if not rows %}<p>None.</p>{% endif %}</section>
<section><h2>What standards ask for</h2><table><tr><th>Standard</th><th>Clause</th><th>Asks for</th>
<th>Evidence</th></tr>
{% for r in requirements %}<tr><td>{{ r.standard }}</td><td>{{ r.clause }}</td><td>{{ r.asks }}</td>
<td>{{ r.evidence }}</td>
</tr>{% endfor %}</table></section>
{% include "footer" %}
{% endblock %}
"""

_FOOTER: Final = """<footer>Made {{ made_at|moment }} by vedr {{ version }} from the ledger alone.
Signed with Ed25519 key <code>{{ keyid }}</code>; the signature is at the end of this file and covers every byte of it.
Check it: <code>vedr report verify FILE</code></footer>
{{ seal_place }}
"""


def pretty(value: Json) -> str:
    """JSON for people."""
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)


@functools.cache
def environment() -> Environment:
    """The templates, compiled once; every value is escaped, an undefined one is an error."""
    made = Environment(
        loader=DictLoader({"base": _BASE, "run": _RUN, "index": _INDEX, "footer": _FOOTER}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    made.filters["shown"] = lambda value: shown(str(value))
    made.filters["json"] = pretty
    made.filters["span"], made.filters["moment"] = span, moment
    return made
