"""Disk images of the nodes: bake builds a base image, or checks an image that the user gives."""
