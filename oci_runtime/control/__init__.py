"""L1: the control socket of a sandbox process: frames and the small client of the command line."""
