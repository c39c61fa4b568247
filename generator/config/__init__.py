"""Read the user's input: the fields of a cluster file, the rules for fields, and profiles, files and flags."""
