"""Print the requirements of pyproject.toml, one word each: dependencies.py FILE [EXTRA]... Standard library only."""

import sys
import tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
requirements = list(project["dependencies"])
for extra in sys.argv[2:]:
    requirements += project["optional-dependencies"][extra]
print(*(requirement.replace(" ", "") for requirement in requirements), sep="\n")
