"""The web: HTTP by Django, sockets by Channels, behind the same login."""

from __future__ import annotations

import os

import django

from datamantri import memory

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "datamantri.settings")
# The REST framework would load them for pages of its own, which are switched off.
with memory.without("requests", "markdown", "pygments"):
    django.setup(set_prefix=False)

from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from channels.sessions import SessionMiddlewareStack
from django.db import connections

from datamantri.requests import RequestHandler
from runs.consumers import websocket_urls

connections.settings["default"]["ENGINE"] = "datamantri.pooled"

# The consumers look up session and user themselves, again and again: rights may end while a page is open.
application = ProtocolTypeRouter(
    {
        "http": RequestHandler(),
        "websocket": AllowedHostsOriginValidator(SessionMiddlewareStack(URLRouter(websocket_urls))),
    }
)
memory.give_back()
