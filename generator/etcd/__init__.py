"""Query running etcd members: the gRPC client, TLS probes, and the nodes' audit reports."""
