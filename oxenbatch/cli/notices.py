"""Tells people that a run has ended, or that something is held: mail, Slack and a hundred others, through apprise."""
