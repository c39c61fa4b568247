"""Read the user's input from profiles, cluster files and flags, and check it."""
