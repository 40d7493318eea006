"""`python -m wiserl` is the `wiserl` command."""

from wiserl.cli.main import main

main()
