#!/bin/sh
# Sees to the GL libraries that MuJoCo draws with: uses what works, else installs with apt when root, else says what to do.
# Usage: gl.sh PYTHON
python=$1
packages="libegl1 libgl1 libgl1-mesa-dri libglib2.0-0"
if backend=$("$python" -m vla.sim.gl 2>/dev/null); then
  echo "==> GL backend: $backend"
  exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "==> installing the GL libraries with apt-get: $packages"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $packages >/dev/null
fi
backend=$("$python" -m vla.sim.gl) || exit 2
echo "==> GL backend: $backend"
