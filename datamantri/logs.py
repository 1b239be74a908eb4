"""What log files are spared."""

from __future__ import annotations

import logging


class OneLineUnlessError(logging.Filter):
    """Takes the traceback from what is no error: a page that was refused or not found says so in its line."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR:
            record.exc_info = None
        return True
