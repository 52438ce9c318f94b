"""From a user's file to a finished run: check the names, run the stages, resume. What the CLI and tests call."""
