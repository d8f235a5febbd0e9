"""``python -m local_host``."""

import os
import signal
import sys

if __name__ == "__main__":
    # The rest takes a moment to import, in which Ctrl-C would print where it is.
    signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(130))

    from local_host.command_line import main

    sys.exit(main())
