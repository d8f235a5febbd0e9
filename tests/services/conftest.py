"""What the tests of the services share."""

from tests.azurite import azurite, own_azurite

__all__ = ["azurite", "own_azurite"]
