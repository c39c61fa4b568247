"""The operations that a user runs on a cluster, such as `bake up`, and the modules that they share."""
