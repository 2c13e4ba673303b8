#!/usr/bin/env bash
# Brings what run.py needs beside the networks' packages into .whl/ of the checkout, about 24 MB, for a GPU machine with
# Python 3.12 (x86-64), JAX and PyTorch that has no network. There: pip install --no-index --find-links=.whl --no-deps .whl/*
set -euo pipefail
cd "$(dirname "$0")/../.."

mkdir -p .whl
python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_24_x86_64 \
  --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .whl \
  array_record==0.8.6 connected-components-3d==4.1.1 dm-tree docstring-parser edt==3.1.2 googleapis-common-protos \
  grain==0.2.18 immutabledict importlib_resources ml_collections==1.1.0 nibabel==5.4.2 portpicker pydicom==3.0.2 \
  simple-parsing tensorboardX==2.6.5 tensorflow-datasets==4.9.10 tensorflow-metadata termcolor toml
python3 -m pip wheel -q --no-deps -w .whl promise==2.3  # comes as source only
du -sh .whl
