"""Orchestrators: deterministic, without clock, random, I/O or settings of their own."""
