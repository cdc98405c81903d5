#!/bin/sh
# one-user.sh PROGRAM [ARGUMENT…]: runs it in a user namespace that has one user, who is root there, as CI systems and containers
# without root have it. Root runs it twice: as what is root of the machine, too, and as what is nobody outside.
set -eu

if ! unshare -U -r true; then
  echo "SKIPPED: no user namespaces can be made here"
  exit 77
fi
echo "as $(id -un)"
unshare -U -r "$@"
[ "$(id -u)" = 0 ] || exit 0
as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
if as_nobody test -x "$1" && as_nobody unshare -U -r true; then
  echo "as nobody"
  as_nobody env TMPDIR=/tmp unshare -U -r "$@"
else
  echo "SKIPPED: nobody, who may not do this here"
fi
