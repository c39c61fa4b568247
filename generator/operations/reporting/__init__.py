"""Collect what the report and the boot timeline show, and write their files."""
