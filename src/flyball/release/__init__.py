"""From candidate to verdict: the registry, the gates, the rollback drill. Only this room moves an alias."""
