"""CometBFT's SecretConnection: an encrypted stream over TCP whose far end has proven a key.

The steps (Station-to-Station; cometbft v0.38 p2p/conn/secret_connection.go):
    1. Both send a fresh X25519 key.
    2. Both put the keys, the lower first, and the shared secret into a Merlin transcript.
    3. HKDF-SHA256 of the shared secret gives a ChaCha20-Poly1305 key each way; the transcript gives a challenge.
    4. Over the encrypted frames both send their Ed25519 key and its signature of the challenge, and check the other's.

Guarantees: after `handshake` every byte received was sealed by the holder of `peer_key`, in order and unchanged; with
an expected node id, that is the node meant.  Each frame carries 4 bytes of length and 1024 of data, always whole.
Leaves out: who may connect.  CometBFT 0.38 makes a new key for its signer port at every start, so an id pinned there
lasts until the node restarts; docs/signer.md says how else to keep strangers out.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vedr.chain.block import ADDRESS_BYTES, KEY_BYTES, SIGNATURE_BYTES
from vedr.chain.encoding import bytes_field, message_field
from vedr.errors import VerificationFailedError
from vedr.signer.protobuf import Message, wrong
from vedr.signer.stream import Stream, receive_message, send_message
from vedr.signer.transcript import Transcript

DATA_BYTES: Final = 1024
LENGTH_BYTES: Final = 4
TAG_BYTES: Final = 16
FRAME_BYTES: Final = LENGTH_BYTES + DATA_BYTES
CHALLENGE_BYTES: Final = 32
_SECRET_BYTES: Final = 32
_HANDSHAKE_BYTES: Final = 256  # both handshake messages have under 110; CometBFT itself allows a megabyte
_KEYS_LABEL: Final = b"TENDERMINT_SECRET_CONNECTION_KEY_AND_CHALLENGE_GEN"
_TRANSCRIPT_LABEL: Final = b"TENDERMINT_SECRET_CONNECTION_TRANSCRIPT_HASH"
_STRANGER: Final = "Check the address, and what stands between signer and node; nothing was signed."


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the two ends agree on."""

    receive_key: bytes
    send_key: bytes
    challenge: bytes


def agree(ours: X25519PrivateKey, theirs: bytes) -> Secrets:
    """Steps 2 and 3; VerificationFailedError when their key has a low order, which would fix the secret."""
    public = ours.public_key().public_bytes_raw()
    try:
        shared = ours.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:
        raise VerificationFailedError("the node offered a key of low order", remedy=_STRANGER) from None
    lower, upper = sorted((public, theirs))
    transcript = Transcript(_TRANSCRIPT_LABEL)
    transcript.append(b"EPHEMERAL_LOWER_PUBLIC_KEY", lower)
    transcript.append(b"EPHEMERAL_UPPER_PUBLIC_KEY", upper)
    transcript.append(b"DH_SECRET", shared)
    receive_key, send_key = derive_keys(shared, we_are_lower=public == lower)
    return Secrets(receive_key, send_key, transcript.challenge(b"SECRET_CONNECTION_MAC", CHALLENGE_BYTES))


def derive_keys(shared: bytes, *, we_are_lower: bool) -> tuple[bytes, bytes]:
    """The keys for receiving and for sending; the end with the lower public key receives under the first."""
    # CometBFT draws 96 bytes and uses 64; HKDF's first bytes do not depend on how many are drawn.
    drawn = HKDF(hashes.SHA256(), 2 * _SECRET_BYTES, salt=None, info=_KEYS_LABEL).derive(shared)
    first, second = drawn[:_SECRET_BYTES], drawn[_SECRET_BYTES:]
    return (first, second) if we_are_lower else (second, first)


def node_id(key: bytes) -> str:
    """A node's id, as in `id@host:port`: the address of its Ed25519 key, in lower-case hexadecimal."""
    return hashlib.sha256(key).digest()[:ADDRESS_BYTES].hex()


class SecretConnection:
    """A Stream inside another."""

    def __init__(self, stream: Stream, secrets: Secrets) -> None:
        self._stream = stream
        self._opening = ChaCha20Poly1305(secrets.receive_key)
        self._sealing = ChaCha20Poly1305(secrets.send_key)
        self._received = 0
        self._sent = 0
        self._rest = b""
        self.peer_key = b""

    @classmethod
    def handshake(
        cls,
        stream: Stream,
        key: Ed25519PrivateKey,
        *,
        expected_node_id: str | None = None,
        ephemeral: X25519PrivateKey | None = None,
    ) -> Self:
        """Make the connection secret and learn who is there.

        Args:
            stream: Freshly connected.
            key: Who we are; not the consensus key.
            expected_node_id: Whom we mean; None takes anybody.
            ephemeral: For tests.

        Raises:
            VerificationFailedError: the other end is not who it should be, or proved nothing.
            CorruptError: it does not speak this protocol.
            UnavailableError: it went away.
        """
        ephemeral = ephemeral or X25519PrivateKey.generate()
        send_message(stream, bytes_field(1, ephemeral.public_key().public_bytes_raw()))
        offered = Message.parse(receive_message(stream, limit_bytes=_HANDSHAKE_BYTES), what="ephemeral key")
        secrets = agree(ephemeral, offered.octets(1, KEY_BYTES))
        connection = cls(stream, secrets)
        ours = message_field(1, bytes_field(1, key.public_key().public_bytes_raw()))
        send_message(connection, ours + bytes_field(2, key.sign(secrets.challenge)))
        proof = Message.parse(receive_message(connection, limit_bytes=_HANDSHAKE_BYTES), what="authentication")
        connection.peer_key = proof.message(1).octets(1, KEY_BYTES)
        _check_proof(connection.peer_key, proof.octets(2, SIGNATURE_BYTES), secrets.challenge)
        if expected_node_id and not hmac.compare_digest(node_id(connection.peer_key), expected_node_id.lower()):
            raise VerificationFailedError(
                f"the node is {node_id(connection.peer_key)}, expected {expected_node_id}", remedy=_STRANGER
            )
        return connection

    def send(self, data: bytes) -> None:
        for at in range(0, len(data), DATA_BYTES):
            chunk = data[at : at + DATA_BYTES]
            frame = (len(chunk).to_bytes(LENGTH_BYTES, "little") + chunk).ljust(FRAME_BYTES, b"\0")
            sealed = self._sealing.encrypt(_nonce(self._sent), frame, None)
            self._sent += 1
            self._stream.send(sealed)

    def receive(self, size_bytes: int) -> bytes:
        while len(self._rest) < size_bytes:
            self._rest += self._receive_frame()
        data, self._rest = self._rest[:size_bytes], self._rest[size_bytes:]
        return data

    def _receive_frame(self) -> bytes:
        sealed = self._stream.receive(FRAME_BYTES + TAG_BYTES)
        try:
            frame = self._opening.decrypt(_nonce(self._received), sealed, None)
        except InvalidTag:
            raise wrong("a frame of the secret connection was changed, or is not of this connection") from None
        self._received += 1
        size = int.from_bytes(frame[:LENGTH_BYTES], "little")
        if size > DATA_BYTES:
            raise wrong(f"a frame of the secret connection says {size} bytes, at most {DATA_BYTES} fit")
        return frame[LENGTH_BYTES : LENGTH_BYTES + size]


def _nonce(counter: int) -> bytes:
    """Four zero bytes, then the counter.  An OverflowError after 2^64 frames, before any is used twice."""
    return bytes(4) + counter.to_bytes(8, "little")


def _check_proof(key: bytes, signature: bytes, challenge: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, challenge)
    except (InvalidSignature, ValueError):
        raise VerificationFailedError("the node's proof of its key is wrong", remedy=_STRANGER) from None
