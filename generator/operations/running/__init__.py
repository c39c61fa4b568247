"""Change a running cluster: observe it, plan the steps, and take them one at a time."""
