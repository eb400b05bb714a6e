"""Engines that drive the runtime for real, each with daemons, roots and networks of its own."""
