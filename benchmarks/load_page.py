"""Many clients ask the page at once: what is answered, what is lost, how long it takes, and whether memory grows.

python benchmarks/load_page.py [--model runs/demo] [--clients 50] [--seconds 120] [--json]

Without --model a tiny one with random weights is asked: what is measured then is the page.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import torch
from measuring import table
