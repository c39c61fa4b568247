"""What a change of a running cluster consists of: observed facts, steps, their order and their safety. Pure."""
