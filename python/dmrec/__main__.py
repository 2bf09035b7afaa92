"""``python -m dmrec``."""

from .cli.main import main

main()
