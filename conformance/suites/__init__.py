"""The checks of our own, grouped by what they are about; importing a module registers its checks."""
