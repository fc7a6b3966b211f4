"""What all tests share: pytest puts this folder on the path, so that stories find `world` and `ledgers` too."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # no test is timed: a busy machine is no bug
settings.load_profile("untimed")
