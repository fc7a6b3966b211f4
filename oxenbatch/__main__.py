"""`python -m oxenbatch` is the command."""

from oxenbatch.cli import main

main()
