"""What a node's NoCloud ISO carries: guest files, first-boot commands, user-data, the ISO itself."""
