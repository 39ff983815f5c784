"""The stage ``compare``: methods and seeds on the same data."""
