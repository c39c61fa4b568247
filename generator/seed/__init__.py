"""Build a node's NoCloud ISO: the guest files, the commands of the first boot, user-data, and the ISO file."""
