"""Chromium, as it is installed on this machine: from the environment variable ``CHROMIUM``, or on the PATH.

Where it is not found its tests are skipped, and the summary says so.
"""

import os
import shutil

MISSING = (
    "Chromium was not found, so the pages were not tried in a browser. "
    "To get it: apt-get install chromium, or name one in CHROMIUM (.ci/run installs it by itself)"
)


def chromium_command() -> str | None:
    """The path of Chromium, or None."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")
