"""A small client of the Kubernetes API: JSON over HTTPS (httpx), with the credentials of a kubeconfig or a token.

Guarantees: the server's certificate is checked against the cluster's own authority; every call has a time limit here
and one on the server; each of the API's answers becomes one of vedr's errors; no credential is in a message.
Leaves out: watches, discovery and retries; authentication by `auth-provider`, which Kubernetes has removed.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/, and client-authentication.k8s.io/v1 for `exec`.
"""

import base64
import binascii
import datetime as dt
import json
import os
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import httpx
import yaml

from vedr.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)

CONNECT_LIMIT_S: Final = 3.0
SERVER_LIMIT_S: Final = 8  # told to the server, so that a write that it can't finish ends there before we stop waiting
ANSWER_LIMIT_S: Final = 10.0
EXEC_LIMIT_S: Final = 20.0
EXEC_MARGIN_S: Final = 60.0  # a token is not used in its last minute
PAGE: Final = 500
MERGE_PATCH: Final = "application/merge-patch+json"

Object = Mapping[str, Any]
"""An object of the API as JSON; read with care, its fields are optional."""


@dataclass(frozen=True, slots=True)
class Access:
    """How a cluster is reached.  One of token, certificate with key, or command says who we are."""

    server: str
    authority: str = field(repr=False)
    token: str = field(default="", repr=False)
    certificate: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)
    command: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = field(default=(), repr=False)


def from_kubeconfig(text: bytes, context: str, reference: str) -> Access:
    """The cluster and user of a context; the file's own when none is named.

    Raises:
        InvalidInputError: it can't be read, or does not have what is needed; its content is never shown.
        NotFoundError: it has no such context.
    """
    try:
        config = yaml.safe_load(text)
        contexts = {entry["name"]: entry["context"] for entry in config["contexts"]}
        wanted = context or config["current-context"]
        if wanted not in contexts:
            raise NotFoundError(
                f"kubeconfig {reference} has no context {wanted!r}", remedy=f"It has: {', '.join(contexts)}."
            )
        cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == contexts[wanted]["cluster"])
        user = next(u["user"] for u in config["users"] if u["name"] == contexts[wanted]["user"])
        plugin = user.get("exec") or {}
        return Access(
            server=cluster["server"],
            authority=base64.b64decode(cluster["certificate-authority-data"], validate=True).decode("ascii"),
            token=user.get("token", ""),
            certificate=base64.b64decode(user.get("client-certificate-data", "")),
            key=base64.b64decode(user.get("client-key-data", "")),
            command=(plugin["command"], *(plugin.get("args") or ())) if plugin else (),
            variables=tuple((entry["name"], entry["value"]) for entry in plugin.get("env") or ()),
        )
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, StopIteration, binascii.Error, UnicodeDecodeError):
        raise InvalidInputError(
            f"kubeconfig {reference} can't be used",
            remedy="It needs a context with a server, its authority's data, and a token, a certificate or exec: "
            "write one with kubectl config view --raw --flatten --minify.",
        ) from None


class KubernetesApi:
    """One cluster.  Safe for threads.

    Args:
        name: The cluster's name, for messages.
        access: How it is reached.
    """

    def __init__(self, name: str, access: Access) -> None:
        self.name: Final = name
        self._credentials = _Credentials(name, access)
        self._client = httpx.Client(
            base_url=access.server,
            verify=_tls(name, access),
            auth=self._credentials,
            timeout=httpx.Timeout(ANSWER_LIMIT_S, connect=CONNECT_LIMIT_S),
            trust_env=False,
        )

    def close(self) -> None:
        self._client.close()

    def get(self, path: str) -> Object:
        return self._call("GET", path)

    def list(self, path: str, **selectors: str) -> list[Object]:
        """All items, page by page.  Selectors: `labelSelector`, `fieldSelector`."""
        items: list[Object] = []
        parameters = {**selectors, "limit": str(PAGE), "timeoutSeconds": str(SERVER_LIMIT_S)}
        while True:
            page = self._call("GET", path, parameters=parameters)
            items += page.get("items") or []
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return items
            parameters["continue"] = following

    def replace(self, path: str, body: Object) -> Object:
        """PUT.  ConflictError when the object has another `resourceVersion` by now: nothing was written."""
        return self._call("PUT", path, body=body, parameters=_WRITE)

    def merge(self, path: str, patch: Object) -> Object:
        """JSON merge patch (RFC 7386)."""
        return self._call("PATCH", path, body=patch, parameters=_WRITE, kind=MERGE_PATCH)

    def create(self, path: str, body: Object) -> Object:
        """POST.  UnavailableError also for 429, such as an eviction that a disruption budget forbids for now."""
        return self._call("POST", path, body=body, parameters=_WRITE)

    def delete(self, path: str, options: Object) -> Object:
        return self._call("DELETE", path, body=options, parameters=_WRITE)

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        parameters: Mapping[str, str] | None = None,
        kind: str = "application/json",
    ) -> Object:
        what = f"cluster {self.name}: {method} {path}"
        content = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json"} | ({} if content is None else {"Content-Type": kind})
        try:
            answer = self._client.request(method, path, content=content, params=parameters, headers=headers)
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"{what}: {type(error).__name__}", remedy="This proves nothing about what runs there; try again."
            ) from error
        if answer.is_error:
            _refused(answer, what)
        try:
            parsed: Object = answer.json()
        except ValueError as error:
            raise UnavailableError(f"{what}: the answer is not JSON", remedy="Is this a Kubernetes API?") from error
        return parsed


_WRITE: Final = {"timeout": f"{SERVER_LIMIT_S}s"}


def _refused(answer: httpx.Response, what: str) -> NoReturn:
    message = f"{what}: {answer.status_code}, {_said(answer)}"
    match answer.status_code:
        case httpx.codes.NOT_FOUND | httpx.codes.GONE:
            raise NotFoundError(message, remedy="Check the names in [fleet.kubernetes].")
        case httpx.codes.CONFLICT:
            raise ConflictError(message, remedy="Somebody else changed it at the same time: find out who, then resume.")
        case httpx.codes.UNAUTHORIZED | httpx.codes.FORBIDDEN:
            raise RefusedError(message, remedy="Check the credentials, and the role in deployments/kubernetes.")
        case httpx.codes.TOO_MANY_REQUESTS:
            raise UnavailableError(message, remedy="Try again after a while.")
        case code if code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise UnavailableError(message, remedy="The control plane has trouble of its own; try again.")
    raise InvalidInputError(message, remedy="This is a mistake in the site file, or in vedr.")


def _said(answer: httpx.Response) -> str:
    try:
        status = answer.json()
    except ValueError:
        return answer.text[:200]
    return str(status.get("message", status))[:300] if isinstance(status, dict) else str(status)[:300]


class _Credentials(httpx.Auth):
    """Puts the bearer token on every request; one from a command is asked for again before it ends."""

    def __init__(self, name: str, access: Access) -> None:
        self._name = name
        self._access = access
        self._token = access.token
        self._until_s = float("inf") if access.token or not access.command else 0.0

    def auth_flow(self, request: httpx.Request) -> Any:
        if time.time() >= self._until_s:
            self._token, self._until_s = self._issued()
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        yield request

    def _issued(self) -> tuple[str, float]:
        access = self._access
        request = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "spec": {"interactive": False},
        }
        environment = {**os.environ, **dict(access.variables), "KUBERNETES_EXEC_INFO": json.dumps(request)}
        try:
            ran = subprocess.run(
                access.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=EXEC_LIMIT_S,
                check=True,
            )
            status = json.loads(ran.stdout)["status"]
            token, ends = str(status["token"]), status.get("expirationTimestamp")
            moment = dt.datetime.fromisoformat(ends).timestamp() if ends else float("inf")
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
            raise UnavailableError(
                f"cluster {self._name}: {access.command[0]} gave no token ({type(error).__name__})",
                remedy="Run it by hand as the user that runs vedr.",
            ) from None
        return token, moment - EXEC_MARGIN_S


def _tls(name: str, access: Access) -> ssl.SSLContext:
    """Believes the cluster's own authority and no other."""
    try:
        context = ssl.create_default_context(cadata=access.authority)
        if access.certificate:
            _load_identity(context, access.certificate, access.key)
    except (ssl.SSLError, ValueError):
        raise InvalidInputError(
            f"cluster {name}: its authority or our certificate is not PEM", remedy="Correct the kubeconfig."
        ) from None
    return context


def _load_identity(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """OpenSSL takes them from files only: one in memory, which nobody else can open."""
    descriptor = os.memfd_create("client", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, certificate.rstrip() + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def name_of(thing: Object) -> str:
    return str((thing.get("metadata") or {}).get("name", "?"))


def dig(thing: Object, *path: str) -> Any:
    """The value at a path, or None."""
    found: Any = thing
    for step in path:
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def conditions(thing: Object) -> Mapping[str, str]:
    """`status.conditions` by type: True, False or Unknown."""
    listed: Sequence[Object] = dig(thing, "status", "conditions") or ()
    return {str(entry.get("type")): str(entry.get("status")) for entry in listed}
