"""groat teaches a language model to reason with the memory you have."""

__version__ = "0.1.0"
