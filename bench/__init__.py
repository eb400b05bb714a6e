"""Measurements: medians of ten on an idle machine, always beside runc's and crun's figures from the same run."""
