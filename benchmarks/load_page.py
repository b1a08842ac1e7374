"""Lets many clients ask the page at once. Counts answered and lost requests, and measures waiting times and memory.

python benchmarks/load_page.py [--model runs/demo] [--clients 50] [--seconds 120] [--json]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from gradio_client import Client, handle_file
from measuring import table

from mmjepa.data.drawn_slides.painting import draw_slide

QUESTIONS = "where is the gland?\nis necrosis seen?\nwhat stain is used?"


class Asker(threading.Thread):
    """A client that asks repeatedly until `end`, and records how long it waited and what went wrong."""

    def __init__(self, address: str, image: str, end: float):
        super().__init__()
        self.client, self.image, self.end = Client(address, verbose=False), image, end
        self.seconds: list[float] = []
        self.errors: list[str] = []

    def run(self):
        while time.monotonic() < self.end:
            start = time.monotonic()
            try:
                answers, _ = self.client.predict(handle_file(self.image), QUESTIONS, api_name="/ask")
                if len(answers["data"]) != 3:
                    self.errors.append(f"{len(answers['data'])} answers to 3 questions")
            except Exception as error:  # whatever it is, the request is lost
                self.errors.append(f"{type(error).__name__}: {error}")
            self.seconds.append(time.monotonic() - start)


def start_page(model: str, log: Path) -> tuple[subprocess.Popen, str]:
    """Starts the page in a process of its own; returns the process and the page's address."""
    command = [sys.executable, "-m", "mmjepa.app", model]
    page = subprocess.Popen(command, stdout=open(log, "w"), stderr=subprocess.STDOUT)
    while "http://" not in log.read_text():
        if page.poll() is not None:
            raise RuntimeError(f"the page did not start: {log.read_text()}")
        time.sleep(0.5)
    return page, next(word for word in log.read_text().split() if word.startswith("http://"))


def measure(model: str, clients: int, seconds: float) -> dict:
    """Requests, losses, waiting times and memory of the page while `clients` ask it for `seconds`."""
    with tempfile.TemporaryDirectory() as folder:
        image = f"{folder}/slide.png"
        draw_slide(np.random.default_rng(0))[0].save(image)
        page, address = start_page(model, Path(folder, "log"))
        try:
            process = psutil.Process(page.pid)
            Client(address, verbose=False).predict(handle_file(image), QUESTIONS, api_name="/ask")
            end = time.monotonic() + seconds
            askers = [Asker(address, image, end) for _ in range(clients)]
            for asker in askers:
                asker.start()
            megabytes = []
            while any(asker.is_alive() for asker in askers):
                megabytes.append(process.memory_info().rss / 1e6)
                time.sleep(1)
        finally:
            page.terminate()
            page.wait()
    waited = [number for asker in askers for number in asker.seconds]
    errors = [error for asker in askers for error in asker.errors]
    quarter = len(megabytes) // 4
    return {
        "clients": clients,
        "requests": len(waited),
        "lost": len(errors),
        "what was lost": "; ".join(sorted(set(errors))[:3]) or "nothing",
        "median wait, s": statistics.median(waited),
        "longest wait, s": max(waited),
        "memory after a quarter of the time, MB": megabytes[quarter],
        "memory at the end, MB": megabytes[-1],
    }


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Lets many clients ask the page at once.")
    parser.add_argument("--model", default="runs/demo")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    results = measure(arguments.model, arguments.clients, arguments.seconds)
    print(json.dumps(results) if arguments.json else table([results]))


if __name__ == "__main__":
    main()
