"""The commands with which a user looks into nodes and into etcd: `bake console`, `bake logs`, `bake etcdctl`."""
