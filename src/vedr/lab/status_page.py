"""The lab's status page: nginx outside all zones, over TLS, so that the lab has a certificate that can run out.

Guarantees: the certificate is the lab's own, and `up` replaces it long before it runs out; its key is readable by its
owner only.
Leaves out: the page's words: what users read in an incident is pasted there by people (vedr bcp messages).
"""

import datetime as dt
import ipaddress
import os
import signal
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vedr.lab.credentials import write_whole
from vedr.lab.gateway import PASSING_FOLDERS
from vedr.lab.plan import Plan

LIFETIME: Final = dt.timedelta(days=365)
RENEW_BEFORE: Final = dt.timedelta(days=60)  # twice what the expiry check warns of
_SKEW: Final = dt.timedelta(minutes=5)


def folder(plan: Plan) -> Path:
    """Everything of the page."""
    return plan.folder / "status-page"


def nginx_config(plan: Plan, *, as_root: bool) -> str:
    """nginx.conf."""
    home = folder(plan)
    temporary = "\n".join(f"    {kind}_temp_path {home}/scratch/{kind};" for kind in PASSING_FOLDERS)
    return f"""daemon off;
{"user root;" if as_root else ""}
worker_processes 1;
pid {home}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 64; }}
http {{
    access_log off;
{temporary}
    server {{
        listen {plan.addresses.ops}:{plan.status_page_port} ssl;
        ssl_certificate {home}/tls.pem;
        ssl_certificate_key {home}/tls.key;
        default_type text/plain;
        location / {{ return 200 "{plan.settings.name}: no messages\\n"; }}
    }}
}}
"""


def write_missing(plan: Plan, now: dt.datetime) -> None:
    """The configuration, and a certificate where there is none that lasts."""
    (folder(plan) / "scratch").mkdir(parents=True, exist_ok=True)
    write_whole(folder(plan) / "nginx.conf", nginx_config(plan, as_root=os.geteuid() == 0), mode=0o644)
    if not _lasts(folder(plan) / "tls.pem", now + RENEW_BEFORE):
        put_certificate(plan, now + LIFETIME)


def put_certificate(plan: Plan, ends: dt.datetime) -> None:
    """A new key and certificate; the page shows it from now on, also when it runs."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"status page of {plan.settings.name}")])
    address = x509.IPAddress(ipaddress.ip_address(plan.addresses.ops))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(dt.datetime.now(dt.UTC), ends) - _SKEW)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_whole(folder(plan) / "tls.key", private.decode("ascii"))
    write_whole(folder(plan) / "tls.pem", certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"))
    _reload(plan)


def _lasts(path: Path, until: dt.datetime) -> bool:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc > until
    except (OSError, ValueError):
        return False


def _reload(plan: Plan) -> None:
    """Tell nginx, where it runs: it takes up the new certificate without dropping a connection."""
    try:
        number = int((folder(plan) / "nginx.pid").read_text(encoding="ascii"))
        if Path(f"/proc/{number}/cwd").readlink() == folder(plan):  # and no stranger that has its number now
            os.kill(number, signal.SIGHUP)
    except (OSError, ValueError):
        return
