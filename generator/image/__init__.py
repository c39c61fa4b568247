"""The disk images that nodes boot from: the base image with its recipe, and images of the user's own."""
