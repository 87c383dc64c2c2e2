"""What users of Prefect reach: nginx before the lab's server, which repeats what SQLite refused.

A request that read before another one's commit may not write: the server rolls it back and answers 503.  Prefect's
clients repeat it; a browser, whose user pressed Submit once, does not.

Guarantees: only a request that the server answered with 503 is repeated, at most TRIES times and for REPEATS_LIMIT_S;
one whose answer was lost is not, for it may have been carried out.  WebSockets and bodies of any size pass.  While the
server is down every answer is 502 and says so.  Repeated requests are listed in its folder.
Leaves out: other causes of 503, which are passed on when the tries are spent.  Why nginx, and why here:
docs/decisions/prefect-front.md.
"""

import os
from pathlib import Path
from typing import Final

from vedr.lab.credentials import write_whole
from vedr.lab.gateway import PASSING_FOLDERS
from vedr.lab.plan import Plan

TRIES: Final = 20
"""One request in seven is refused in a lab at rest, every second one where a loaded machine makes them slow: of those,
one in a million is left."""
REPEATS_LIMIT_S: Final = 30  # half of the time for which Prefect's clients wait: the last try has the other half
REPEATED_LOG: Final = "repeated.log"
"""A line for each request that was repeated: when, which, every try's answer, how long it took."""

_SILENCE_LIMIT_S: Final = 3600  # of a WebSocket; Prefect's server pings every 20 s

_DOWN: Final = (
    "Prefect's server does not answer.  Runbooks need none: vedr run RB-DR-..., docs/disaster-recovery.md.  "
    "In this lab: vedr lab status, vedr lab start prefect-server.\\n"
)


def folder(plan: Plan) -> Path:
    """Everything of the front."""
    return plan.folder / "prefect-front"


def nginx_config(home: Path, *, listen: str, server: str, as_root: bool) -> str:
    """nginx.conf.  Connections to the server are not kept: one that it just closed would lose a request.

    Args:
        home: nginx's own folder.
        listen: `address:port` for users.
        server: `address:port` of Prefect.
        as_root: Who runs it.
    """
    temporary = "\n".join(f"    {kind}_temp_path {home}/scratch/{kind};" for kind in PASSING_FOLDERS)
    tries = "\n".join([f"        server {server} max_fails=0;"] * TRIES)
    return f"""daemon off;
{"user root;" if as_root else ""}
worker_processes 1;
pid {home}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
{temporary}
    map $http_upgrade $connection_to_server {{
        default upgrade;
        ""      close;
    }}
    map $upstream_status $was_repeated {{
        default 0;
        "~,"    1;
    }}
    log_format repeated "$time_iso8601 $request_method $uri $upstream_status $request_time";
    access_log {home}/{REPEATED_LOG} repeated if=$was_repeated;
    upstream server {{
{tries}
    }}
    server {{
        listen {listen};
        client_max_body_size 0;
        client_body_buffer_size 1m;
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_to_server;
        proxy_request_buffering on;
        proxy_connect_timeout 5s;
        proxy_send_timeout {_SILENCE_LIMIT_S}s;
        proxy_read_timeout {_SILENCE_LIMIT_S}s;
        proxy_next_upstream http_503 non_idempotent;
        proxy_next_upstream_tries {TRIES};
        proxy_next_upstream_timeout {REPEATS_LIMIT_S}s;
        error_page 502 504 =502 @down;
        location / {{ proxy_pass http://server; }}
        location @down {{
            default_type text/plain;
            return 502 "{_DOWN}";
        }}
    }}
}}
"""


def write_config(plan: Plan) -> None:
    """The configuration, as the plan is now."""
    home, as_root = folder(plan), os.geteuid() == 0
    (home / "scratch").mkdir(parents=True, exist_ok=True)
    config = nginx_config(home, listen=plan.orchestrator_front, server=plan.orchestrator_server, as_root=as_root)
    write_whole(home / "nginx.conf", config, mode=0o644)
