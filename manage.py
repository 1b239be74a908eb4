#!/usr/bin/env python
"""Django's command line for DataMantri."""

import os
import sys

from datamantri.embedded import launch


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "datamantri.settings")
    command = launch.takes(sys.argv)
    if command is not None:
        return command(sys.argv[2:])
    launch.join_running_product()

    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.stderr.write(f"Error: {error}\n")
        return launch.BAD_CONFIGURATION
    return launch.GOOD


if __name__ == "__main__":
    sys.exit(main())
