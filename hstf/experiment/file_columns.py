"""Columns of all tables that list the files of a case."""

from hstf.runtime.tables import Column

FILES = Column("files", "list", "Files of the case, relative to the folder of the table.")
SHA256 = Column("sha256", "list", "SHA-256 of each file.")
