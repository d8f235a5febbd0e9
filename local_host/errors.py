"""The errors that stop the host; their text is all that the user sees."""


class HostError(Exception):
    """The host cannot start, or cannot go on; the message says why and what to do."""
