"""The report of a cluster as an HTML page, and the boot timeline as an SVG chart. Pure."""
