"""L4: `vmpod install containerd|crio`: make an engine know this runtime, and undo it to the byte."""
