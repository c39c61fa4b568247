"""Disk images of the nodes: the base image with its recipe, and the user's images."""
