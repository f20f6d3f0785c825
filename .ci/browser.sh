#!/bin/sh
# Sees to the browser that the page's tests drive: uses what is there, else installs Debian's Chromium with apt when root,
# else says what to do.
if command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1; then
  exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "==> installing a browser with apt-get: chromium"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null && exit 0
fi
echo "error: no Chromium here; install it with: apt-get install -y chromium" >&2
exit 2
