"""`vmpod image build|list|inspect|verify|prune`: the command line of the image store."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from oci_runtime.argument_parser import ArgumentParser
from oci_runtime.errors import OciRuntimeError
from oci_runtime.image.store import DEFAULT_NAME, DEFAULT_STORE, list_images, load_image, verify_image


def run_image(argv: list[str], store: str = DEFAULT_STORE) -> int:
    """Run one command and return the exit status: 0 done, 1 failed, 2 wrong arguments, 3 an `--check` that says no.

    store: the default of `--store` (the configuration's `image.store`).
    """
    try:
        arguments = _parser(store).parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        return int(arguments.run(arguments))
    except OciRuntimeError as error:
        print(f"vmpod image: {error}", file=sys.stderr)
        if error.detail:
            print(error.detail, file=sys.stderr)
        return 1


def _parser(store: str) -> ArgumentParser:
    from oci_runtime.image.recipe import KERNEL_PACKAGE

    parser = ArgumentParser(prog="vmpod image", description="build, list and check guest images")
    place = "where the images are (%(default)s)"
    default = Path(os.environ.get("VMPOD_IMAGE_STORE") or store)
    parser.add_argument("--store", metavar="DIR", type=Path, default=default, help=place)
    # Behind the verb as well, where it must not undo what was said before it.
    common = ArgumentParser(add_help=False)
    common.add_argument("--store", metavar="DIR", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    build = verbs.add_parser("build", parents=[common], help="build what is missing and give it a name")
    build.set_defaults(run=_build)
    build.add_argument("--name", default=DEFAULT_NAME)
    build.add_argument("--kernel-package", default=KERNEL_PACKAGE, help="Debian package of the guest kernel")
    build.add_argument("--mirror", default=os.environ.get("VMPOD_IMAGE_MIRROR", ""), help="Debian mirror")
    build.add_argument("--refresh", action="store_true", help="fetch the Debian packages again")
    build.add_argument("--force", action="store_true", help="write the image again even if it is there")
    build.add_argument("--check", action="store_true", help="only say whether it is up to date (exit status 3: no)")

    verbs.add_parser("list", parents=[common], help="the images of the store").set_defaults(run=_list)
    for verb, function, text in (
        ("inspect", _inspect, "print the manifest of an image"),
        ("verify", _verify, "hash every file of an image and compare with its manifest"),
    ):
        one = verbs.add_parser(verb, parents=[common], help=text)
        one.set_defaults(run=function)
        one.add_argument("name", nargs="?", default=DEFAULT_NAME)
    prune = verbs.add_parser("prune", parents=[common], help="remove images without a name and unused trees")
    prune.set_defaults(run=_prune)
    return parser


def _build(arguments: argparse.Namespace) -> int:
    from oci_runtime.image.build import BuildSettings, build_image, expected_image_hash

    if arguments.check:
        expected = expected_image_hash(arguments.store, arguments.kernel_package)
        current = next((image.hash for image in list_images(arguments.store) if image.name == arguments.name), None)
        return 0 if expected is not None and expected == current else 3
    started = time.monotonic()

    def progress(text: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {text}", file=sys.stderr, flush=True)

    image = build_image(
        BuildSettings(
            store=arguments.store,
            name=arguments.name,
            kernel_package=arguments.kernel_package,
            mirror=arguments.mirror,
            refresh=arguments.refresh,
            force=arguments.force,
        ),
        progress,
    )
    progress(f"image {image.name} is {image.directory}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    print(f"{'NAME':12} {'HASH':16} {'KERNEL':28} {'SIZE':>8}")
    for image in list_images(arguments.store):
        print(f"{image.name:12} {image.hash:16} {image.kernel_release:28} {image.image_bytes >> 20:4} MiB")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    image, manifest = load_image(arguments.store, arguments.name)
    print(json.dumps({"name": image.name, "directory": image.directory, **manifest}, indent=2))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    image, _ = load_image(arguments.store, arguments.name)
    verify_image(image, always=True)
    print(f"{image.name}: {image.hash}: all files are as built")
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    from oci_runtime.image.prune import prune_store

    for removed in prune_store(arguments.store):
        print(f"removed {removed}")
    return 0
