"""What a PostgreSQL connection stores."""

from __future__ import annotations

from dataclasses import dataclass

from connectors import masks
from connectors.options import option


@dataclass(frozen=True)
class PostgresOptions:
    host: str = option("Host", help="A host name or address, without a scheme.", address=True)
    dbname: str = option("Database")
    user: str = option("User")
    port: int = option("Port", default=5432, address=True)
    password: str = option("Password", default="", secret=True)
    sslmode: str = option(
        "TLS",
        default="",
        choices=("", "verify-full", "verify-ca", "require", "prefer", "disable"),
        help="Automatic: verify-full for a remote host, prefer for this machine.",
        address=True,
    )
    sslrootcert: str = option(
        "Root certificate",
        default="",
        multiline=True,
        help="PEM text of the authority that signed the server's certificate.",
        address=True,
    )
    mask_key: str = option(
        "Key for masks",
        default="",
        secret=True,
        stays=True,
        help="What HMACs of masked columns are made with: 32 or more random characters, for example of openssl rand "
        "-base64 32. The same key makes the same masks, in every table. Another key makes other ones: pipelines that "
        "append, merge or keep a history then ask for a full refresh.",
    )

    def __post_init__(self) -> None:
        masks.check_key(self.mask_key)
