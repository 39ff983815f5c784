"""The stage ``report``: one HTML page about the experiment."""
