"""L4: `vmpod install`: make an engine know this runtime, and undo it to the byte."""
