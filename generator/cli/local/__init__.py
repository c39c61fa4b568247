"""The commands that need neither libvirt nor a running cluster."""
