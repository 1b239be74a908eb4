"""HTTP requests, each from its first middleware to its view's answer in one thread."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponseBase


class RequestHandler(ASGIHandler):
    """Django's handler for ASGI, with middleware as under WSGI.

    Django's own hops from the event loop to a thread and back at every middleware, which costs more than all that
    middleware does: nothing here is asynchronous but sockets, which come another way.
    """

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        return await sync_to_async(self.get_response, thread_sensitive=True)(request)
