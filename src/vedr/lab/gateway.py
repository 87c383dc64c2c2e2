"""A region's API gateway: nginx in front of the region's full nodes.

Guarantees: a node that fails two requests is left out for five seconds, and the request goes to another; `/healthz`
answers 200 only while some node does.  Nothing is written outside the gateway's folder.
"""

from pathlib import Path
from typing import Final

from vedr.lab.addresses import GATEWAY_PORT, RPC_PORT
from vedr.lab.plan import Member, Plan

PASSING_FOLDERS: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
"""Where nginx keeps what passes through it; it wants all of them, used or not."""


def nginx_config(plan: Plan, gateway: Member, folder: Path, *, as_root: bool) -> str:
    """nginx.conf of one gateway."""
    upstreams = "\n".join(
        f"        server {plan.published(node, RPC_PORT)} max_fails=2 fail_timeout=5s;"
        for node in plan.nodes_in(gateway.zone.region, "full", "archive")
    )
    temporary = "\n".join(f"    {kind}_temp_path {folder}/scratch/{kind};" for kind in PASSING_FOLDERS)
    return f"""daemon off;
{"user root;" if as_root else ""}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
{temporary}
    upstream nodes {{
{upstreams}
        keepalive 8;
    }}
    server {{
        listen {plan.listen(gateway, GATEWAY_PORT)};
        client_max_body_size 1m;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_connect_timeout 1s;
        proxy_read_timeout 10s;
        proxy_next_upstream error timeout http_502 http_503;
        location = /healthz {{ proxy_pass http://nodes/health; }}
        location / {{ proxy_pass http://nodes; }}
    }}
}}
"""
