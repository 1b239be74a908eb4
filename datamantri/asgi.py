"""The web: HTTP by Django, sockets by Channels, behind the same login."""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "datamantri.settings")
django.setup(set_prefix=False)

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from channels.sessions import SessionMiddlewareStack  # noqa: E402
from django.db import connections  # noqa: E402

from datamantri import memory  # noqa: E402
from datamantri.requests import RequestHandler  # noqa: E402
from runs.consumers import websocket_urls  # noqa: E402

connections.settings["default"]["ENGINE"] = "datamantri.pooled"

# The consumers look up session and user themselves, again and again: rights may end while a page is open.
application = ProtocolTypeRouter(
    {
        "http": RequestHandler(),
        "websocket": AllowedHostsOriginValidator(SessionMiddlewareStack(URLRouter(websocket_urls))),
    }
)
memory.give_back()
