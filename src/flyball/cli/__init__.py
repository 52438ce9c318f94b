"""The `flyball` command: one file per command group. Nothing here computes; it reads arguments, calls and prints."""
