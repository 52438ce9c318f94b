"""`python -m flyball`: the `flyball` command, of the interpreter that was named."""

from flyball.cli.main import main

main()
