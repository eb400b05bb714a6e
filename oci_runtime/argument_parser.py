"""argparse with errors of one line: for commands of people whose start-up time counts little."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class ArgumentParser(argparse.ArgumentParser):
    """The standard library's, with a pointer to the help instead of the usage text when the arguments are wrong."""

    def error(self, message: str) -> NoReturn:
        """Tell about wrong arguments; exits with status 2."""
        print(f"{self.prog}: {message}, see {self.prog} --help", file=sys.stderr)
        sys.exit(2)
