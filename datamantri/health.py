"""`python -m datamantri.health web|worker|beat`: exit status 0 when this container's process does its work."""

from __future__ import annotations

import os
import socket
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit


def web() -> bool:
    public = urlsplit(os.environ.get("PUBLIC_URL") or "http://localhost:8000")
    # Only the public name is an allowed host.
    request = urllib.request.Request(
        f"http://127.0.0.1:{os.environ.get('PORT') or 8000}/healthz", headers={"Host": public.netloc}
    )
    try:
        with urllib.request.urlopen(request, timeout=4) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def seen(kind: str) -> bool:
    """The process of this container said lately that it lives; its name holds the container's host name."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "datamantri.settings")
    django.setup()
    from runs import queries

    alive = queries.workers_alive() if kind == "worker" else queries.beats_alive()
    return alive.filter(name__contains=f"@{socket.gethostname()}").exists()


def main(arguments: list[str]) -> int:
    if arguments == ["web"]:
        return 0 if web() else 1
    if arguments in (["worker"], ["beat"]):
        return 0 if seen(arguments[0]) else 1
    sys.stderr.write("usage: python -m datamantri.health web|worker|beat\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
