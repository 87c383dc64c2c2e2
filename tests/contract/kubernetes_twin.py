"""A Kubernetes API for tests: the documented semantics that vedr relies on, over HTTPS, in this process.

Objects have uid, generation and resourceVersion; a PUT with another resourceVersion is a 409; lists take label and
field selectors and come in pages; pods are deleted in two steps, the second by the kubelet with a grace of 0;
`scale` is a view of its workload.

No watches, no admission, no schema.
"""

import copy
import datetime as dt
import ipaddress
import itertools
import json
import re
import ssl
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

TOKEN: Final = "a-token-of-the-test"
PAGE: Final = 2  # smaller than any client asks for, so that every client has to page
KINDS: Final = ("namespaces", "nodes", "pods", "statefulsets", "deployments")
Json = dict[str, Any]


class Refused(Exception):  # noqa: N818 (an answer, not an error)
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Store:
    """Every object, by its path."""

    objects: dict[str, Json] = field(default_factory=dict)
    versions: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    lock: threading.RLock = field(default_factory=threading.RLock)

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Json) -> Json:
        with self.lock:
            if path.endswith("/scale"):
                return self._scale(method, path.removesuffix("/scale"), body)
            target = path.removesuffix("/status")
            match method:
                case "GET":
                    return self._list(path, query) if path.rsplit("/", 1)[-1] in KINDS else self._read(path)
                case "POST":
                    return self._create(path, body)
                case "PUT":
                    return self._write(path, body)
                case "PATCH":
                    return self._write(target, _merged(self._read(target), body), is_status=target != path)
                case _:
                    return self._delete(path, body)

    def _read(self, path: str) -> Json:
        if path not in self.objects:
            raise Refused(404, f"{path} not found")
        return copy.deepcopy(self.objects[path])

    def _list(self, path: str, query: Mapping[str, str]) -> Json:
        kind = path.rsplit("/", 1)[-1]
        everywhere = re.compile(rf"{re.escape(path.removesuffix(kind))}(namespaces/[^/]+/)?{kind}/[^/]+")
        items = [o for p, o in sorted(self.objects.items()) if everywhere.fullmatch(p)]
        items = [o for o in items if _has(o["metadata"].get("labels", {}), query.get("labelSelector", ""))]
        if wanted := query.get("fieldSelector", "").removeprefix("spec.nodeName="):
            items = [o for o in items if o["spec"].get("nodeName") == wanted]
        first = int(query.get("continue", "0"))
        more = {"continue": str(first + PAGE)} if len(items) > first + PAGE else {}
        return {"items": copy.deepcopy(items[first : first + PAGE]), "metadata": more}

    def _create(self, path: str, body: Json) -> Json:
        path = f"{path}/{body['metadata']['name']}"
        if path in self.objects:
            raise Refused(409, f"{path} already exists")
        namespace = re.search(r"/namespaces/([^/]+)/", path)
        place = {"namespace": namespace.group(1)} if namespace else {}
        made = {"uid": str(uuid.uuid4()), "generation": 1, "resourceVersion": str(next(self.versions)), **place}
        self.objects[path] = {**body, "metadata": {**body["metadata"], **made}}
        return self._read(path)

    def _write(self, path: str, body: Json, *, is_status: bool = False) -> Json:
        now = self._read(path)["metadata"]
        if body["metadata"].get("resourceVersion", now["resourceVersion"]) != now["resourceVersion"]:
            raise Refused(409, f"{path}: the object has been modified; please apply your changes to the latest version")
        generation = now["generation"] + (not is_status and body.get("spec") != self.objects[path].get("spec"))
        fresh = {"resourceVersion": str(next(self.versions)), "generation": generation}
        self.objects[path] = {**body, "metadata": {**body["metadata"], **fresh}}
        return self._read(path)

    def _delete(self, path: str, body: Json) -> Json:
        pod = self._read(path)
        if (body.get("preconditions") or {}).get("uid", pod["metadata"]["uid"]) != pod["metadata"]["uid"]:
            raise Refused(409, f"{path}: the UID in the precondition does not match")
        default = pod.get("spec", {}).get("terminationGracePeriodSeconds", 30)
        grace = min(body.get("gracePeriodSeconds", default), pod["metadata"].get("deletionGracePeriodSeconds", 10**9))
        if grace == 0 or not pod.get("spec", {}).get("nodeName"):
            return self.objects.pop(path)
        stamp = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        leaving = {"deletionTimestamp": stamp, "deletionGracePeriodSeconds": grace}
        return self._write(path, {**pod, "metadata": {**pod["metadata"], **leaving}})

    def _scale(self, method: str, path: str, body: Json) -> Json:
        workload = self._read(path)
        if method == "PUT":
            spec = {**workload["spec"], "replicas": body["spec"].get("replicas", 0)}
            version = {"resourceVersion": body["metadata"]["resourceVersion"]}
            workload = self._write(path, {**workload, "spec": spec, "metadata": {**workload["metadata"], **version}})
        labels = workload["spec"]["selector"]["matchLabels"]
        shown = {name: workload["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion")}
        replicas = workload["spec"].get("replicas", 1)
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": shown,
            "spec": {"replicas": replicas} if replicas else {},
            "status": {"replicas": 0, "selector": ",".join(f"{k}={v}" for k, v in labels.items())},
        }


def _has(labels: Mapping[str, str], selector: str) -> bool:
    return all(labels.get(term.partition("=")[0]) == term.partition("=")[2] for term in selector.split(",") if term)


def _merged(into: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    kept = {
        name: value
        for name, value in (into if isinstance(into, dict) else {}).items()
        if patch.get(name, 0) is not None
    }
    return kept | {name: _merged(kept.get(name), value) for name, value in patch.items() if value is not None}


@dataclass
class Twin:
    """The API on a port of loopback; `answers` overrules it for a path's end: status, and body."""

    folder: Path
    port: int
    store: Store = field(default_factory=Store)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def start(self) -> None:
        certificate, key = _certificate(self.folder)
        self.authority = certificate.read_text()
        twin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                sent = json.loads(self.rfile.read(length)) if length else {}
                code, body = twin.answer(self.command, self.path, self.headers.get("Authorization", ""), sent)
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 (http.server's names)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, method: str, target: str, authorization: str, sent: Json) -> tuple[int, bytes]:
        split = urlsplit(target)
        for end, (code, body) in self.answers.items():
            if split.path.endswith(end):
                return code, body
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        try:
            if authorization != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized")  # noqa: TRY301
            return 200, json.dumps(self.store.answer(method, split.path, query, sent)).encode()
        except Refused as refused:
            status = {"kind": "Status", "status": "Failure", "message": str(refused), "code": refused.code}
            return refused.code, json.dumps(status).encode()


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes of a test")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + dt.timedelta(1)
    )
    made = made.add_extension(address, critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate, secret = folder / "api.crt", folder / "api.key"
    certificate.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    return certificate, secret
