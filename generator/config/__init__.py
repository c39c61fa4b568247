"""User input: the fields of a cluster file, their rules, and how profile, file and flags become one spec."""
