# Sourced by the scripts beside it: messages, and installing what a machine lacks.

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 2; }

# need COMMAND PACKAGE: the command, from the system's packages if it is missing and that is possible.
need() {
  local command=$1 package=$2
  # Administrators' tools are often outside of a user's PATH.
  PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $package for $command"
    { apt-get -qq install -y "$package" || { apt-get -qq update && apt-get -qq install -y "$package"; }; } >/dev/null 2>&1 && return
  fi
  die "$command is missing: install the package $package"
}

# want COMMAND PACKAGE: the same, but the script goes on without it.
want() { (need "$1" "$2") || true; }
