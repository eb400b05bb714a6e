"""Report writers: each turns run records into text, without touching anything else."""
