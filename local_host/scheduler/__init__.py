"""The other engine: a Durable Task Scheduler, or its emulator, in place of the embedded task hub.

The host is a worker of the scheduler; the app's clients reach it through a proxy on loopback.
"""
