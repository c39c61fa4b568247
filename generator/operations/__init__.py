"""The operations of a user on a cluster. Each module contains one operation."""
