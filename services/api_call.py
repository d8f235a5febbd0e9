"""Calls to outside APIs (a placeholder until the real module is written over it)."""

from contracts.guarded_call import Answer, Attempt, HttpCall, SimulatedCall


def check_call(call: SimulatedCall | HttpCall) -> None:
    """Raise ``ValueError`` unless this may be called."""


def make(attempt: Attempt) -> Answer:
    """Make one attempt."""
    call = attempt.call
    if isinstance(call, SimulatedCall) and attempt.number <= call.fails:
        message = f"The simulated API answers {call.status}."
        return Answer(problem="status", status=call.status, message=message, fingerprint="0" * 16)
    return Answer(result=call.result if isinstance(call, SimulatedCall) and call.result is not None else call.body)
