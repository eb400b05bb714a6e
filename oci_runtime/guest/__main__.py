"""`python3 -m oci_runtime.guest`: what the first stage executes."""

from oci_runtime.guest.main import main

main()
