"""A small mail server: keeps each message that it is given, and refuses recipients that it does not know."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage

KNOWN = "me@example.com"


@dataclass
class MailServer:
    port: int
    messages: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)


@contextmanager
def mail_server() -> Iterator[MailServer]:
    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 mail.example.com")
            while line := self.rfile.readline().decode().strip():
                match line.split(":")[0].split(" ")[0].upper():
                    case "EHLO" | "HELO":
                        self._say("250 mail.example.com")
                    case "RCPT" if KNOWN not in line:
                        self._say("550 nobody of that name")
                    case "RCPT":
                        kept.recipients.append(KNOWN)
                        self._say("250 ok")
                    case "DATA":
                        self._say("354 go on")
                        kept.messages.append(self._message())
                        self._say("250 taken")
                    case "QUIT":
                        self._say("221 bye")
                        return
                    case _:
                        self._say("250 ok")

        def _say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

        def _message(self) -> EmailMessage:
            lines = []
            while (line := self.rfile.readline()) != b".\r\n":
                lines.append(line)
            return message_from_bytes(b"".join(lines), policy=policy.default)  # type: ignore[return-value]

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session) as server:
        kept = MailServer(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield kept
        finally:
            server.shutdown()
            thread.join(10)
