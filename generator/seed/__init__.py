"""The content of a node's NoCloud ISO: guest files, first-boot commands and user-data; and the ISO itself."""
