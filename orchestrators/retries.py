"""How often, and how patiently, an activity is tried."""

from datetime import timedelta

from durabletask.task import RetryPolicy

EFFECT = RetryPolicy(
    first_retry_interval=timedelta(seconds=2),
    max_number_of_attempts=5,
    backoff_coefficient=3,
    max_retry_interval=timedelta(minutes=1),
)
"""For an effect on the outside world that is safe to repeat: five attempts within about a minute and a half."""

CALLBACK = RetryPolicy(
    first_retry_interval=timedelta(seconds=10),
    max_number_of_attempts=10,
    backoff_coefficient=3,
    max_retry_interval=timedelta(hours=1),
)
"""For somebody else's server: ten attempts within about four hours and a half."""

RECORD = RetryPolicy(
    first_retry_interval=timedelta(seconds=1),
    max_number_of_attempts=1_500,
    backoff_coefficient=2,
    max_retry_interval=timedelta(minutes=30),
)
"""For the records: without them nothing goes on, so that they are tried for a month, in the end every half hour."""
