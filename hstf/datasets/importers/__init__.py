"""Importers of public data sets and of plain folders."""
