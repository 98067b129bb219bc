"""`python -m mythos.cli` is the same as `mythos`."""

from mythos.cli.main import main

main()
