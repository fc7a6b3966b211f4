"""The ledger: SQLite, what is true now and how it became so. Nobody outside this folder writes SQL."""

from oxenbatch.ledger.book import Ledger

__all__ = ["Ledger"]
