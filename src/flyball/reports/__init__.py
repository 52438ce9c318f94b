"""What people read: the one-page Reliability Brief and the report of a run, from the records and nothing else."""
