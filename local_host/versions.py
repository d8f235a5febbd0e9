"""Versions of orchestrations: which ones this host runs, as ``host.json`` says.

Source: Microsoft, "Orchestration versioning in Durable Functions", version comparison rules.
"""

import re

from local_host.host_json import NONE, STRICT, HostSettings


def is_match(settings: HostSettings, version: str | None) -> bool:
    """Whether an instance of this version is one that the host's version runs."""
    if settings.version_match == NONE:
        return True
    order = compare(version or "", settings.version)
    return order == 0 if settings.version_match == STRICT else order <= 0


def compare(one: str, two: str) -> int:
    """Give -1, 0 or 1: no version is the oldest, two .NET versions go by their numbers, others by their letters."""
    if not one or not two:
        return bool(one) - bool(two)
    numbers = _numbers(one), _numbers(two)
    if all(numbers):
        return (numbers[0] > numbers[1]) - (numbers[0] < numbers[1])
    return (one.upper() > two.upper()) - (one.upper() < two.upper())


def _numbers(version: str) -> tuple[int, ...]:
    """The parts of a ``System.Version``, which has two to four; none where it is something else."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){1,3}", version):
        return ()
    return tuple(int(part) for part in version.split("."))
