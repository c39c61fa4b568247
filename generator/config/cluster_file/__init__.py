"""The cluster file as a document for people and editors: its JSON Schema, and a commented example."""
