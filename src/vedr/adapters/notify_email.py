"""Mail, by a relay (SMTP, RFC 5321), encrypted unless the site says otherwise.

All mails of an incident are one thread.  The same news has the same Message-ID, by which mail systems drop what they
have already.

Guarantees: delivered means that the relay took it for every recipient; what the relay says goes into no error but as
its code, for it may repeat what it was sent.
Leaves out: trying again and other channels (vedr.continuity.delivery), and whether anybody reads it.
"""

import contextlib
import re
import smtplib
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Final

from vedr.adapters.notify_failure import unreachable
from vedr.adapters.notify_http import trusted
from vedr.adapters.secrets import resolve
from vedr.continuity.message import Message
from vedr.errors import RefusedError, UnavailableError, VedrError
from vedr.policies.notifications import Email

_LOCAL: Final = re.compile(r"[^A-Za-z0-9.-]+")
_GOODBYE_S: Final = 0.5
_PERMANENT: Final = 500  # RFC 5321, 4.2.1: 4yz may be tried again, 5yz may not


class EmailChannel:
    """As vedr.continuity.delivery.Channel."""

    kind: Final = "email"

    def __init__(self, policy: Email) -> None:
        self.name: Final = policy.name
        self._policy = policy

    def send(self, message: Message, *, timeout_s: float) -> None:
        policy = self._policy
        mail = render(message, sender=policy.sender, recipients=policy.recipients)
        try:
            relay = self._connected(timeout_s)
            try:
                if policy.username and policy.password is not None:
                    relay.login(policy.username, resolve(policy.password).decode())
                missed = relay.send_message(mail)
            finally:
                _leave(relay)
        except (smtplib.SMTPException, OSError) as error:
            raise _explained(error, len(policy.recipients)) from None
        if missed:
            raise _recipients(missed, len(policy.recipients))

    def _connected(self, timeout_s: float) -> smtplib.SMTP:
        policy = self._policy
        if policy.security == "tls":
            return smtplib.SMTP_SSL(policy.server, policy.port, timeout=timeout_s, context=trusted(policy.ca_file))
        relay = smtplib.SMTP(policy.server, policy.port, timeout=timeout_s)
        try:
            if policy.security == "starttls":
                relay.starttls(context=trusted(policy.ca_file))
        except BaseException:
            relay.close()
            raise
        return relay


def _leave(relay: smtplib.SMTP) -> None:
    """Say goodbye; what the relay makes of that changes nothing about the mail that it took."""
    with contextlib.suppress(smtplib.SMTPException, OSError):
        if relay.sock is not None:
            relay.sock.settimeout(_GOODBYE_S)
        relay.quit()
    relay.close()


def render(message: Message, *, sender: str, recipients: tuple[str, ...]) -> EmailMessage:
    """Headers by the library, which refuses line ends in them; the body as plain text."""
    domain = sender.rpartition("@")[2]
    mail = EmailMessage()
    mail["Subject"] = f"[{message.severity}] {message.subject}"
    mail["From"] = Address(f"vedr {message.site}", addr_spec=sender)
    mail["To"] = ", ".join(recipients)
    mail["Date"] = message.at
    mail["Message-ID"] = _message_id(message.key, domain)
    mail["References"] = _message_id(message.incident, domain)
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    links = "".join(f"\n{link.label}: {link.url}" for link in message.links)
    mail.set_content(f"{message.body}\n{links}\n\n{message.site} · {message.incident} · {message.event}\n")
    return mail


def _message_id(key: str, domain: str) -> str:
    return f"<{_LOCAL.sub('.', key).strip('.')}@{domain}>"


def _recipients(missed: dict[str, tuple[int, bytes]], total: int) -> VedrError:
    codes = sorted({code for code, _ in missed.values()})
    what = f"the relay refused {len(missed)} of {total} recipients ({', '.join(map(str, codes))})"
    if len(missed) == total and max(codes) < _PERMANENT:
        return UnavailableError(what, remedy="It asks to try later.")
    return RefusedError(what, remedy="Check the channel's recipients.")  # again would be twice for the others


def _explained(error: Exception, recipients: int) -> VedrError:
    """In our words: a relay's own text may repeat what it was sent."""
    match error:
        case smtplib.SMTPRecipientsRefused():
            return _recipients(error.recipients, recipients)
        case smtplib.SMTPAuthenticationError():
            return RefusedError(f"the relay refuses the login ({error.smtp_code})", remedy="Check the password.")
        case smtplib.SMTPNotSupportedError():
            return RefusedError("the relay lacks STARTTLS or a login", remedy='Check the port, or security = "tls".')
        case smtplib.SMTPResponseException():
            what = f"the relay says {error.smtp_code} ({type(error).__name__})"
            if error.smtp_code >= _PERMANENT:
                return RefusedError(what, remedy="Check sender and relay.")
            return UnavailableError(what, remedy="It asks to try later.")
        case _:
            return unreachable(error)
