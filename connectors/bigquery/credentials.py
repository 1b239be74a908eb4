"""The service account key: parsed here, because Google's loaders accept kinds that read files and call URLs."""

from __future__ import annotations

import json
import re
from typing import Any

from google.auth.credentials import AnonymousCredentials, Credentials
from google.oauth2 import service_account

from connectors.errors import ConnectorError

FIELD = "credentials_json"
TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 (an address, not a secret)
UNIVERSE = "googleapis.com"
SCOPES = ("https://www.googleapis.com/auth/bigquery", "https://www.googleapis.com/auth/cloud-platform")
_NEEDED = ("client_email", "private_key", "private_key_id")
_MAKE_ONE = "In Google Cloud: IAM, Service accounts, Keys, Add key, JSON; then paste the whole file."


def load(key: str, *, emulator: bool) -> Credentials:
    """Credentials for a key's JSON text; with an emulator an empty key is none at all.

    The key signs its own tokens, so no address from it is ever called. Raises ConnectorError, which
    never holds any of the key's text.
    """
    if not key.strip():
        if emulator:
            return AnonymousCredentials()
        raise ConnectorError(
            "The service account key is missing.", hint=_MAKE_ONE, code="credentials_missing", field=FIELD
        )
    info = _parse(key)
    try:
        credentials = service_account.Credentials.from_service_account_info(info, scopes=SCOPES)
    except Exception as error:  # noqa: BLE001 (whatever the crypto library raises: its text may quote the key)
        raise _malformed(f"its private key cannot be read ({type(error).__name__})") from None
    return credentials.with_always_use_jwt_access(True)


def email(credentials: Credentials) -> str:
    """Who the key says it is; empty without a key."""
    return str(getattr(credentials, "service_account_email", ""))


def _parse(key: str) -> dict[str, Any]:
    try:
        info = json.loads(key)
    except ValueError:
        raise _malformed("it is not JSON") from None
    if not isinstance(info, dict):
        raise _malformed("it is not a JSON object")
    if info.get("type") != "service_account":
        raise ConnectorError(
            "The key is not a service account's.", hint=_MAKE_ONE, code="credentials_kind", field=FIELD
        )
    # Anything else would send signed requests to an address that the form's author chose.
    if info.get("token_uri", TOKEN_URI) != TOKEN_URI or info.get("universe_domain", UNIVERSE) != UNIVERSE:
        raise ConnectorError(
            "The key names another token address or universe than Google's own.",
            hint=_MAKE_ONE,
            code="credentials_refused",
            field=FIELD,
        )
    missing = [name for name in _NEEDED if not isinstance(info.get(name), str) or not info[name]]
    if missing:
        raise _malformed(f"{', '.join(missing)} is missing")
    # The address is a part of a URL that Google's library asks for.
    if not re.fullmatch(r"[\w.+-]+@[\w.-]+\.gserviceaccount\.com", info["client_email"]):
        raise _malformed("client_email is not a service account's address")
    return {**info, "token_uri": TOKEN_URI}


def _malformed(why: str) -> ConnectorError:
    return ConnectorError(
        f"The service account key cannot be used: {why}.", hint=_MAKE_ONE, code="credentials_malformed", field=FIELD
    )
