"""Read and check the user's input from profiles, cluster files and flags."""
