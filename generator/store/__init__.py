"""`out/<cluster>/`: written atomically, and read back: CAs, keys, requests, the kept spec."""
