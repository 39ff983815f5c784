"""What an experiment takes: time, memory and disk."""
