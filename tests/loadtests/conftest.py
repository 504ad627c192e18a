"""Properties are checked without a clock: on a busy machine any example may take long."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None, max_examples=40)
settings.load_profile("unhurried")
