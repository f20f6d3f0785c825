#!/bin/sh
# Sees to the FFmpeg libraries that torchcodec decodes videos with: uses what is there, else installs Debian's with apt when
# root, else says what to do.
# Usage: ffmpeg.sh PYTHON
python=$1
if "$python" -c "import torchcodec.decoders" >/dev/null 2>&1; then
  exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "==> installing FFmpeg's libraries with apt-get"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ffmpeg >/dev/null
fi
"$python" -c "import torchcodec.decoders" >/dev/null 2>&1 && exit 0
echo "error: torchcodec finds no FFmpeg here (versions 4 to 8, shared libraries); install it with: apt-get install -y ffmpeg" >&2
exit 2
