"""Attempts and groups of attempts: run, re-run when the machinery failed, priced, scheduled. Grading is elsewhere."""
