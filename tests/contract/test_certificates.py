"""The check of certificates on real TLS servers, whose authorities the tests are."""

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from vedr.adapters.certificates import shown_by
from vedr.errors import CorruptError, NotFoundError, UnavailableError
from vedr.policies.checks import Checks
from vedr.readiness.credentials import judge_certificate
from vedr.readiness.finding import Part

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
DAY = dt.timedelta(days=1)
POLICY = Checks()
LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
ELSEWHERE = x509.DNSName("elsewhere.example")


@dataclass(frozen=True)
class Authority:
    """Signs what it is told to; itself first."""

    file: Path
    name: x509.Name
    key: ec.EllipticCurvePrivateKey

    def issue(
        self,
        folder: Path,
        names: Sequence[x509.GeneralName] = (LOOPBACK,),
        *,
        starts: dt.datetime = NOW - DAY,
        ends: dt.datetime = NOW + 90 * DAY,
    ) -> Path:
        """A certificate and its key in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _builder(_named("service"), self.name, key, starts, ends)
        if names:
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        path = folder / "service.pem"
        path.write_bytes(_pem(made.sign(self.key, hashes.SHA256())) + _pem_key(key))
        return path


def authority(file: Path) -> Authority:
    key, name = ec.generate_private_key(ec.SECP256R1()), _named(file.stem)
    made = _builder(name, name, key, NOW - DAY, NOW + 999 * DAY)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    file.write_bytes(_pem(made.sign(key, hashes.SHA256())))
    return Authority(file, name, key)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: Any, starts: Any, ends: Any) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return made.serial_number(x509.random_serial_number()).not_valid_before(starts).not_valid_after(ends)


def _pem(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@contextlib.contextmanager
def serving(shows: Path | None) -> Iterator[str]:
    """A TLS server with that certificate; without one, a server that speaks something else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if shows:
        context.load_cert_chain(shows)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed: the test is over
            with connection, contextlib.suppress(OSError):
                if shows:
                    context.wrap_socket(connection, server_side=True).close()
                else:
                    connection.sendall(b"SSH-2.0-x\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/x"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def judged(shows: Path, *roots: str | Path, named: bool = True) -> Part:
    with serving(shows) as url:
        shown = shown_by(url, roots=[str(root) for root in roots], named=named)
        return judge_certificate("service", shown, NOW, POLICY)


@pytest.fixture
def own(tmp_path: Path) -> Authority:
    return authority(tmp_path / "own.pem")


def test_a_certificate_for_its_host_by_a_trusted_authority_passes(own: Authority, tmp_path: Path) -> None:
    shows = own.issue(tmp_path)
    for roots in ((own.file,), ("system", own.file), ()):
        assert judged(shows, *roots).status == "passed", roots


@pytest.mark.parametrize("roots", [False, True])
@pytest.mark.parametrize(("days", "says"), [(-3, "expired"), (5, "expires in 5"), (20, "expires in 20")])
def test_an_end_is_told_as_such_whoever_signed_it(
    own: Authority, tmp_path: Path, days: int, says: str, roots: bool
) -> None:
    shows = own.issue(tmp_path, starts=NOW - 400 * DAY, ends=NOW + days * DAY)
    part = judged(shows, *([own.file] if roots else []))
    assert (part.status, says in part.observed) == ("warning" if days == 20 else "failed", True), part


@pytest.mark.parametrize("roots", [False, True])
def test_a_certificate_that_is_not_valid_yet_fails(own: Authority, tmp_path: Path, roots: bool) -> None:
    part = judged(own.issue(tmp_path, starts=NOW + 2 * DAY), *([own.file] if roots else []))
    assert (part.status, "not valid yet" in part.observed) == ("failed", True)
    assert "valid now" in part.remedy


@pytest.mark.parametrize("roots", [False, True])
@pytest.mark.parametrize("names", [[ELSEWHERE], [x509.DNSName("127.0.0.1")], []])
def test_a_certificate_for_another_host_fails_unless_the_site_asks_for_no_name(
    own: Authority, tmp_path: Path, names: list[x509.GeneralName], roots: bool
) -> None:
    shows, trusted = own.issue(tmp_path, names), [own.file] if roots else []
    part = judged(shows, *trusted)
    assert (part.status, "mismatch" in part.observed) == ("failed", True), part
    assert "a certificate for its name" in part.remedy
    assert judged(shows, *trusted, named=False).status == "passed"


def test_a_certificate_of_a_stranger_fails_where_the_site_names_roots(own: Authority, tmp_path: Path) -> None:
    shows = own.issue(tmp_path)
    stranger = authority(tmp_path / "stranger.pem")
    for roots, named in (((stranger.file,), True), (("system",), True), ((stranger.file,), False)):
        part = judged(shows, *roots, named=named)
        assert (part.status, "certificate" in part.observed) == ("failed", True), part
        assert "certificate_roots" in part.remedy


def test_a_site_may_trust_the_very_certificate(own: Authority, tmp_path: Path) -> None:
    shows = own.issue(tmp_path)
    assert judged(shows, shows).status == "passed"


def test_roots_that_can_not_be_read_are_an_error_and_no_pass(own: Authority, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for root in (tmp_path / "gone.pem", tmp_path / "empty.pem"):
        with pytest.raises(NotFoundError, match=r"no certificates can be read") as found:
            judged(own.issue(tmp_path), root)
        assert "certificate_roots" in found.value.remedy
    with pytest.raises(ValidationError, match="neither an absolute path"):
        Checks(certificate_roots=("ca.pem",))


def test_an_endpoint_without_tls_shows_no_certificate() -> None:
    with serving(None) as url, pytest.raises((UnavailableError, CorruptError)):
        shown_by(url, roots=(), named=True)
