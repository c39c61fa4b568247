"""The configuration with which applications connect to a cluster: Kubernetes, Patroni, Prometheus, and others."""
