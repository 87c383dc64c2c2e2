"""What a store's failed answer means, in words for a person: what happened, where, what to do.

obstore and botocore put whole answers into their errors: an XML body with the canonical request in two spellings, and
a dump of their own structures, several KiB.  Their types do not tell enough either: a listing that is refused is
"generic" to obstore, and an unknown access key is "not found" on some servers.  So the answer's own status and code
decide.

Guarantees: what is said beside the names of endpoint, bucket and key is one line of at most MAX_SAID_CHARS; nothing of
a signature or a key is in it.
Leaves out: answers that are an outcome (a key that exists already, a lock): their callers look for these first.
"""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from vedr.errors import NotFoundError, RefusedError, UnavailableError, VedrError
from vedr.inventory import StoreConfig

MAX_SAID_CHARS: Final = 160
TRY_LATER: Final = "The region's store does not answer as it should; try again later."

_CREDENTIALS: Final = "Correct the credentials of [regions.{region}.store] in the site file."
_RENEW: Final = "Renew the credentials of [regions.{region}.store]."
_POLICY: Final = "Let the bucket's policy allow it to the credentials of [regions.{region}.store]."
_BUCKET: Final = "Correct the bucket's name in [regions.{region}.store], or make it: vedr snapshot buckets --apply."
_TAKEN: Final = "Choose another bucket for [regions.{region}.store]: the name is in use, by whomever."
_CLOUD_REGION: Final = "Correct cloud_region in [regions.{region}.store]."
REFUSALS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "SignatureDoesNotMatch": ("the secret key is wrong", _CREDENTIALS),
        "InvalidAccessKeyId": ("the access key is unknown there", _CREDENTIALS),
        "XAdminUserNotFound": ("the access key is unknown there", _CREDENTIALS),  # Versity's, with 404
        "ExpiredToken": ("the credentials have expired", _RENEW),
        "InvalidToken": ("the credentials are not valid", _RENEW),
        "AccessDenied": ("our credentials may not do this", _POLICY),
        "AllAccessDisabled": ("our credentials may not do this", _POLICY),
        "NoSuchBucket": ("there is no such bucket", _BUCKET),
        "BucketAlreadyExists": ("the bucket is another account's", _TAKEN),
        "AuthorizationHeaderMalformed": ("the server is of another cloud region", _CLOUD_REGION),
        "PermanentRedirect": ("the bucket is in another cloud region", _CLOUD_REGION),
        "RequestTimeTooSkewed": ("this machine's clock is wrong", "Set this machine's clock."),
    }
)
"""What no repetition helps against: code to what it means, and what to do."""

_STATUS: Final = re.compile(r"status code: (\d{3})(?: ([A-Z][A-Za-z ]*))?")
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")
_SAID: Final = re.compile(r"<Message>([^<]*)</Message>")
_SYSTEM: Final = re.compile(r'(?:message|error): "((?:[^"\\]|\\.)*)"')
_ERRNO: Final = re.compile(r"\[Errno -?\d+\] ([^'\")]+)")
_UNAUTHENTICATED: Final = (401, 403)
_ABSENT: Final = 404


@dataclass(frozen=True, slots=True)
class Answer:
    """A failed answer's parts; `status` None when there was no answer, `said` then being why."""

    status: int | None
    code: str
    said: str

    @property
    def in_words(self) -> str:
        if self.status is None:
            return f"it does not answer ({self.said})"
        return f"it answers {self.status} {self.code}{f' ({self.said})' if self.said else ''}".rstrip()


def answer_of(error: Exception) -> Answer:
    """Of obstore's or botocore's error."""
    response = getattr(error, "response", None)  # botocore's, where there was an answer
    if isinstance(response, dict) and "Error" in response:
        found = response["Error"]
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return Answer(int(status or 0), str(found.get("Code", "")), _short(str(found.get("Message", ""))))
    text = str(error)
    status_line = _STATUS.search(text)
    if status_line is None:
        return Answer(None, "", _short(_cause(error)))
    code, said = _CODE.search(text), _SAID.search(text)
    named = code[1] if code else (status_line[2] or "").strip()
    return Answer(int(status_line[1]), named, _short(html.unescape(said[1])) if said else "")


@dataclass(frozen=True, slots=True)
class Place:
    """A region's bucket, as messages name it."""

    region: str
    config: StoreConfig

    def name(self, key: str = "") -> str:
        """`s3://bucket/key in eu-west (127.0.0.1:7070)`."""
        return f"s3://{self.config.bucket}/{key} in {self.region} ({self._server})"

    @property
    def _server(self) -> str:
        if self.config.endpoint is None:
            return f"Amazon S3, {self.config.cloud_region}"
        return urlsplit(self.config.endpoint).netloc.rpartition("@")[2] or self.config.endpoint

    def error(self, error: Exception, key: str = "", *, again: str = TRY_LATER) -> VedrError:
        """The error as one of ours.

        Args:
            error: obstore's or botocore's.
            key: What was asked for; empty for the bucket.
            again: What to do where it may go by itself.
        """
        answer = answer_of(error)
        if answer.code in REFUSALS:
            means, remedy = REFUSALS[answer.code]
            return RefusedError(f"{self.name(key)}: {means} ({answer.code})", remedy=remedy.format(region=self.region))
        if answer.status in _UNAUTHENTICATED:  # the answer to a HEAD has no code
            return RefusedError(
                f"{self.name(key)}: the server refuses our credentials ({answer.status})",
                remedy=f"Check the bucket's policy, and the credentials of [regions.{self.region}.store].",
            )
        if answer.status == _ABSENT:
            return NotFoundError(f"{self.name(key)} does not exist", remedy="Use another region's copy.")
        return UnavailableError(f"{self.name(key)}: {answer.in_words}", remedy=again)


def _cause(error: Exception) -> str:
    """Why nothing answered: the innermost reason, as the system says it."""
    below = getattr(error, "kwargs", {}).get("error")  # botocore's, of the library below it
    found = _SYSTEM.findall(str(error)) or _ERRNO.findall(str(below))
    return str(found[-1]) if found else str(error).strip().split("\n", 1)[0]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_SAID_CHARS else f"{line[: MAX_SAID_CHARS - 1]}…"
