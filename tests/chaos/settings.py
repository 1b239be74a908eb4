"""The product's settings, for workers in which named points can be struck."""

from datamantri.settings import *  # noqa: F403
from datamantri.settings import INSTALLED_APPS as _APPS

INSTALLED_APPS = [*_APPS, "tests.chaos"]
