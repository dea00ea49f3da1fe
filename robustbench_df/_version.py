"""The version, in a module of its own that is fast to import."""

__version__ = "0.1.0"
