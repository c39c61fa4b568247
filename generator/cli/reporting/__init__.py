"""The commands that draw a cluster: `bake timeline` and `bake report`."""
