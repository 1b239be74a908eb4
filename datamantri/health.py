"""`python -m datamantri.health web|worker|beat|poller`: exit status 0 when this container's process does its work.

Without Django, whose loading would cost a second of each look.
"""

from __future__ import annotations

import socket
import sys
import urllib.request
from contextlib import closing
from urllib.parse import urlsplit

import psycopg2

from datamantri import control, env

LIMIT_S = 4


def web() -> bool:
    port = env.integer("PORT", 8000, least=1, most=65535)
    # Only the public name is an allowed host.
    host = urlsplit(env.http_url("PUBLIC_URL", "http://localhost:8000")).netloc
    request = urllib.request.Request(f"http://127.0.0.1:{port}/healthz", headers={"Host": host})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=LIMIT_S) as answer:
        return answer.status == 200


def seen(kind: str) -> bool:
    """A process of this container said lately that it lives; its name holds the container's host name."""
    with closing(control.connect(LIMIT_S)) as link, link.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM runs_process WHERE kind = %s AND starts_with(name, %s)"
            " AND seen_at > now() - make_interval(secs => %s))",
            [kind, f"{kind}@{socket.gethostname()}:", env.seconds("LEASE_TTL_S", 30, least=1)],
        )
        [(alive,)] = cursor.fetchall()
    return bool(alive)


def main(arguments: list[str]) -> int:
    if arguments not in (["web"], ["worker"], ["beat"], ["poller"]):
        sys.stderr.write("usage: python -m datamantri.health web|worker|beat|poller\n")
        return 2
    [kind] = arguments
    try:
        return 0 if (web() if kind == "web" else seen(kind)) else 1
    except (OSError, psycopg2.Error, env.ImproperlyConfigured) as error:
        sys.stderr.write(f"{kind} is not well: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
