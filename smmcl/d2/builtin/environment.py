"""What a run starts with: the seeds of all random generators, and a table of what is installed."""

import datetime
import importlib.metadata
import logging
import os
import random
import sys

import numpy as np
import torch
from tabulate import tabulate


def seed_all_rng(seed: int | None = None) -> None:
    """Seeds Python, numpy and torch.

    Args:
        seed: None draws one and logs it.
    """
    if seed is None:
        seed = os.getpid() + int(datetime.datetime.now().strftime("%S%f"))
        seed += int.from_bytes(os.urandom(2), "big")
        logging.getLogger("detectron2.utils.env").info(f"Using a generated random seed {seed}")
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)


def collect_env_info() -> str:
    """Returns a table of versions and devices, as text."""
    rows = [("sys.platform", sys.platform), ("Python", sys.version.replace("\n", ""))]
    for package in ("numpy", "torch", "fvcore", "iopath", "yacs", "Pillow", "matplotlib"):
        rows.append((package, importlib.metadata.version(package)))
    rows.append(("GPU available", torch.cuda.is_available()))
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        rows.append(
            (
                f"GPU {index}",
                f"{properties.name} (arch={properties.major}.{properties.minor}, {memory:.0f} GiB)",
            )
        )
    return tabulate(rows) + "\n" + torch.__config__.show()
