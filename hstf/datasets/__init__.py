"""Data sets: importers and synthetic scans."""
