"""What happened, append-only: runs, attempts, judgements, evidence and the artifacts they point at."""
