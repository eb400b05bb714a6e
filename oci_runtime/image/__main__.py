"""`python -m oci_runtime.image`: the image commands without the rest of the command line."""

import sys

from oci_runtime.image.command import run_image

sys.exit(run_image(sys.argv[1:]))
