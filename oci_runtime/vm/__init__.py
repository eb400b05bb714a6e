"""The QEMU driver: settings → command line (pure), launch (synchronous), control of the running machine (asyncio)."""
