"""Posting to a web hook whose address is a secret.

Guarantees: a 2xx answer is read whole, within the time-out of each read and a size limit; redirects are not followed;
plain http goes to this machine only; every failure is one of ours, and neither it nor any log shows the address's path,
a key, or a text of the service that repeats one.
Leaves out: proxies; retries (vedr.continuity.delivery).

httpx.Client logs each request's URL at INFO, which here is the secret: its transport is used without it.
"""

import datetime as dt
import email.utils
import functools
import ipaddress
import json
import re
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from vedr.adapters.notify_failure import unreachable
from vedr.adapters.secrets import resolve
from vedr.continuity.delivery import ThrottledError
from vedr.errors import (
    CorruptError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VedrError,
)

MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_QUOTED: Final = 120  # characters of what a service says
DEFAULT_RETRY_AFTER_S: Final = 1.0
_MIN_SECRET_PART: Final = 6  # shorter parts of a path (`v2`, `api`) are nobody's secret
_TRANSIENT: Final = frozenset({408, 425, 500, 502, 503, 504})
_HIDDEN: Final = "…"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service said."""

    status: int
    text: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Hook:
    """Where to post, with what must never be shown.  Its representation shows nothing."""

    url: httpx.URL = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    ca_file: Path | None = None


def hook(reference: str, ca_file: Path | None = None, *, keys: Collection[bytes] = ()) -> Hook:
    """The web hook whose address is kept there.

    Raises:
        InvalidInputError: it is no address, or one by which the message would travel in the clear.
    """
    return hook_at(resolve(reference).decode("utf-8", "replace"), reference, ca_file, keys=keys)


def hook_at(text: str, what: str, ca_file: Path | None = None, *, keys: Collection[bytes] = ()) -> Hook:
    """As `hook`, of an address that is known."""
    try:
        url = httpx.URL(text.strip())
    except httpx.InvalidURL:
        raise InvalidInputError(f"what {what} holds is not a URL", remedy="Put the web hook's address there.") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidInputError(f"what {what} holds is not an http(s) URL", remedy="Put the web hook's address there.")
    if url.scheme == "http" and not _is_this_machine(url.host):
        raise InvalidInputError(
            f"the address in {what} is http: the message would travel in the clear", remedy="Give its https address."
        )
    parts = re.split(r"[/?&=]", url.raw_path.decode("ascii", "replace"))
    named = [*parts, url.username, url.password, *(key.decode("utf-8", "replace") for key in keys)]
    return Hook(url, tuple(sorted({part for part in named if len(part) >= _MIN_SECRET_PART}, key=len)), ca_file)


def post(hook: Hook, body: bytes, headers: Mapping[str, str], *, timeout_s: float) -> Answer:
    """Post JSON; what the service answered, if that is a success.

    Raises:
        ThrottledError: 429, with how long it wants to be left alone.
        UnavailableError: no connection, no answer in time, 5xx.
        VerificationFailedError: its certificate is not one that is trusted.
        RefusedError: any other status.
    """
    request = httpx.Request(
        "POST",
        hook.url,
        content=body,
        headers={"Content-Type": "application/json", "User-Agent": "vedr", **headers},
        extensions={"timeout": httpx.Timeout(timeout_s).as_dict()},
    )
    try:
        with httpx.HTTPTransport(verify=_trust(hook), retries=0) as transport:
            response = transport.handle_request(request)
            try:
                answer = Answer(response.status_code, _read(response), dict(response.headers))
            finally:
                response.close()
    except httpx.TransportError as error:
        raise unreachable(error) from None
    if httpx.codes.is_success(answer.status):
        return answer
    raise refused(answer, hook)


def refused(answer: Answer, hook: Hook) -> VedrError:
    """An answer that is no success, as one of our errors."""
    said = quoted(answer.text, hook)
    what = f"HTTP {answer.status}" + (f": {said}" if said else "")
    if answer.status == httpx.codes.TOO_MANY_REQUESTS:
        return ThrottledError(what, retry_after_s=_retry_after_s(answer))
    if answer.status in _TRANSIENT:
        return UnavailableError(what, remedy="Look at the service's status page.")
    if httpx.codes.is_redirect(answer.status):
        return RefusedError(f"{what}: it redirects, which is not followed", remedy="Put the new address in the secret.")
    return RefusedError(what, remedy="Check the channel's secret: was the web hook revoked?")


def quoted(text: str, hook: Hook) -> str:
    """The beginning of what a service said, on one line, without secrets that it repeats."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    for secret in reversed(hook.secrets):  # the longest first: one may hold another
        line = line.replace(secret, _HIDDEN)
    return line if len(line) <= MAX_QUOTED else line[: MAX_QUOTED - 1] + _HIDDEN


def encoded(document: object) -> bytes:
    """As JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _read(response: httpx.Response) -> str:
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise CorruptError(
                f"HTTP {response.status_code} with more than {MAX_ANSWER_BYTES} bytes", remedy="Check the address."
            )
    return body.decode("utf-8", "replace")


def _trust(hook: Hook) -> ssl.SSLContext:
    if hook.url.scheme == "http":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not used; it trusts nobody
    return trusted(hook.ca_file)


def trusted(ca_file: Path | None) -> ssl.SSLContext:
    """Certificates of the system, or those in the file; NotFoundError when it holds none."""
    if ca_file is None:
        return _system()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError):
        raise NotFoundError(f"{ca_file} holds no certificates", remedy="Correct the channel's ca_file.") from None


@functools.cache  # reading them takes a tenth of a second, and channels are told side by side
def _system() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _retry_after_s(answer: Answer) -> float:
    """RFC 9110, 10.2.3: seconds, or a date; Discord gives fractions of a second in its document."""
    text = answer.headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass  # a date, or nothing
    try:
        when = email.utils.parsedate_to_datetime(text)
        return max(0.0, (when - dt.datetime.now(when.tzinfo)).total_seconds())
    except (TypeError, ValueError):
        return DEFAULT_RETRY_AFTER_S


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
