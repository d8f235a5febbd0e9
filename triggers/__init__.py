"""Triggers: HTTP in, HTTP out; no workflow logic."""
