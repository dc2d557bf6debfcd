"""Run the command ``kits-unet3d weights``."""

from __future__ import annotations

import argparse

from . import Outcome, require_checkpoints, seconds, whole_number

HELP = "list, download or add published weights"
EXAMPLE = "kits-unet3d weights download mlperf-kits19"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "download", "add"), help="what to do")
    parser.add_argument("name", nargs="?", default=None, help="name to download, or checkpoint file to add")
    parser.add_argument("--as", dest="alias", default=None, metavar="NAME", help="name that `add` gives the weights")
    parser.add_argument(
        "--trained-on", default=None, metavar="TEXT", help="training data of a file for `add` that does not name them"
    )
    parser.add_argument(
        "-o",
        "--output-dir",
        default=None,
        help="directory for downloaded weights, for `predict --checkpoint`; default: where `predict` finds them",
    )
    parser.add_argument("--url", default=None, help="address of the file on a mirror")
    parser.add_argument("--offline", action="store_true", help="never use the internet")
    parser.add_argument("--retries", type=whole_number(0), default=6, help="retries, with growing waits")
    parser.add_argument("--timeout", type=seconds, default=60.0, help="seconds to wait for a server's response")


def run(arguments: argparse.Namespace) -> Outcome:
    from ..runtime.errors import UsageError

    for option, value in (("--as", arguments.alias), ("--trained-on", arguments.trained_on)):
        if value is not None and arguments.action != "add":
            raise UsageError(f"{option} describes weights that `weights add` adds; leave it out")
    of_download = arguments.url is not None or arguments.output_dir is not None or arguments.offline
    if of_download and arguments.action != "download":
        raise UsageError("--url, --output-dir and --offline are for `weights download`; leave them out")
    # Checked before torch is imported, which takes seconds.
    require_checkpoints([arguments.name] if arguments.action == "add" and arguments.name else [])

    if arguments.action == "list":
        return _list()

    from ..download import Patience
    from ..weights import add_weights, download_weights, find_weights

    if arguments.name is None:
        raise UsageError(f"`weights {arguments.action}` needs a name; see `kits-unet3d weights list`")
    if arguments.action == "add":
        path = add_weights(arguments.name, arguments.alias, arguments.trained_on)
    else:
        published = find_weights(arguments.name)
        print("\n".join(published.description()), flush=True)
        patience = Patience(arguments.timeout, arguments.retries)
        path = download_weights(published, arguments.url, arguments.offline, patience, arguments.output_dir)
    print(path)
    return Outcome({"file": str(path)})


def _list() -> Outcome:
    """Print what is published and what is here, and mark the weights that a prediction uses."""
    from ..weights import chosen_checkpoint, installed_description, installed_weights, published_weights

    published, installed, chosen = published_weights(), installed_weights(), chosen_checkpoint()
    for name in dict.fromkeys((*published, *installed)):
        path = installed.get(name)
        print("\n".join(published[name].description() if name in published else installed_description(installed[name])))
        print("  here         " + (f"{path} ({path.stat().st_size / 1e6:.1f} MB)" if path else "not downloaded"))
        if path is not None and path == chosen:
            print("  used         by `predict` without --checkpoint")
    print(f"`predict` without --checkpoint uses {chosen or 'nothing: download weights, or train a model'}")
    results = {"published": list(published), "installed": {name: str(path) for name, path in installed.items()}}
    return Outcome({**results, "default": chosen and str(chosen)})
