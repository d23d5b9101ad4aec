# lib.sh: what the scripts share; they source it from the project root. Exit codes as in docs/exit-codes.md.
readonly EX_USAGE=64 EX_DATA=65 EX_NOINPUT=66 EX_UNAVAILABLE=69 EX_CANTCREAT=73

say() { printf '== %s\n' "$*" >&2; }
die() { # CODE MESSAGE
  printf '%s: %s\n' "${0##*/}" "$2" >&2
  exit "$1"
}

# usage: the comment at the top of the calling script, without its first line
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

# packages GROUP...: the names in scripts/packages.txt
packages() {
  local group package
  while read -r group package _; do
    [[ " $* " != *" $group "* ]] || echo "$package"
  done < scripts/packages.txt
}

# install_packages GROUP...: installs what is missing, as root or through sudo without a password.
# Without the rights it prints the one line to run and ends with 69.
install_packages() {
  local package missing=() as_root=()
  if ! command -v dpkg-query apt-get >/dev/null; then
    say "not a Debian system: nothing installed, cmake will say what is missing"
    return
  fi
  for package in $(packages "$@"); do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  if [[ $EUID -ne 0 ]]; then
    sudo -n true 2>/dev/null || die $EX_UNAVAILABLE "packages are missing and may not be installed by this user; run as root:
apt-get install -y --no-install-recommends ${missing[*]}"
    as_root=(sudo -n)
  fi
  say "installing ${missing[*]}"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
  "${apt[@]}" update </dev/null || die $EX_UNAVAILABLE "apt-get update failed (see above)"
  "${apt[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null \
    || die $EX_UNAVAILABLE "apt-get could not install ${missing[*]} (see above)"
}
