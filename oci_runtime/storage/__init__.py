"""Storage drivers of the host side: the virtio-fs share of a sandbox, and what of a bundle is served through it."""
