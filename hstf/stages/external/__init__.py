"""The stage ``external``: models of others predict cases, and are measured on labelled ones."""
