"""Views of the ledger that other programs read."""
