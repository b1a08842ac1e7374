"""Writes drawn slides from the command line."""

import argparse

from . import write_drawn_slides


def main() -> None:
    """Parses the flags and writes the slides."""
    parser = argparse.ArgumentParser(description="Draws slides with questions and writes them as tables and images.")
    parser.add_argument("folder")
    defaults = {"num_train": 2000, "num_validation": 200, "num_test": 0, "seed": 0, "image_size": 96}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    write_drawn_slides(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
