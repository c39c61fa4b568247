"""Look into nodes and into etcd: the console, the journals, etcdctl."""
