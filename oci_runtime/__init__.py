"""vmpod: an OCI runtime that gives every pod its own virtual machine."""

__version__ = "0.1.0"
