"""What touches this machine: every side effect of the package lives here."""
