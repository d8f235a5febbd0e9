"""What the state of an instance says."""

from services.states import ENDED, head_of, is_paused, progress_of, run_of, value_of

__all__ = ["ENDED", "head_of", "is_paused", "progress_of", "run_of", "value_of"]
