"""What is said to readers who may have left."""

from __future__ import annotations

import os
import sys
from typing import TextIO

import click


def talk(words: str, stream: TextIO | None = None, *, err: bool = True) -> None:
    """Say it, on stderr unless told otherwise. A reader who has left is no reason to stop, nor another exit code."""
    try:
        click.echo(words, file=stream, err=err)
    except BrokenPipeError:
        unread()


def unread() -> None:
    """What is still to come for readers who have left goes nowhere, when Python flushes it at the end too."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
