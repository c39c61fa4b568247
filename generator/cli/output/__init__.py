"""How the commands show their help, and their problems."""
