"""The cluster's folder `out/<cluster>/`: write it atomically; read its CAs, keys, requests and spec."""
