"""Build a node's NoCloud ISO, which has the guest's files and the commands of the first boot."""
