"""What a user may say: every field of a cluster file, its rules, and how files and flags become one spec."""
