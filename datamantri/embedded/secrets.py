"""Secrets that are made once and kept beside the data, readable by their owner only."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable
from pathlib import Path


def random_password() -> str:
    """Letters, digits, - and _: safe in URLs, configuration files and shells."""
    return secrets.token_urlsafe(24)


def random_secret_key() -> str:
    return secrets.token_urlsafe(50)


def random_fernet_key() -> str:
    """32 random bytes in url-safe base64, as cryptography's Fernet wants them."""
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def keep(path: Path, make: Callable[[], str] = random_password) -> str:
    """Return the secret in `path`; when there is none, make one and store it with mode 0600."""
    if path.exists():
        return path.read_text().strip()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = make()
    write_private(path, secret + "\n")
    return secret


def write_private(path: Path, text: str) -> None:
    """Put `text` into `path` at once or not at all, with mode 0600 from the start."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
