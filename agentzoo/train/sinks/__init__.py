"""Sinks: where a run's log goes beside metrics.jsonl, by name or as objects of one's own."""
