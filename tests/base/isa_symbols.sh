#!/usr/bin/env bash
# isa_symbols.sh BUILD_DIR: a library that is compiled for one instruction set may define symbols in its own namespace
# only. An inline function of a shared header that slips out (a weak symbol) could be taken by the linker for the
# whole program, which would then stop with an illegal instruction on a smaller processor.
set -euo pipefail
build=$1
checked=0
bad=0
while IFS= read -r library; do
  isa=${library##*_}
  isa=${isa%.a}
  checked=$((checked + 1))
  # Global, weak and unique symbols; DW.ref.* is a pointer to the personality routine, data without code.
  foreign=$(nm -C --defined-only "$library" |
    awk 'NF >= 3 && $2 ~ /^[A-TV-Zuvw]$/ { sub(/^[^ ]+ [^ ] /, ""); print }' |
    grep -vE "rookery::cpu_$isa::|^DW\.ref\." || true)
  if [[ -n $foreign ]]; then
    echo "$library defines outside rookery::cpu_$isa:"
    sed 's/^/  /' <<<"$foreign"
    bad=1
  fi
done < <(find "$build" -name 'lib*_avx2.a' -o -name 'lib*_avx512.a' | sort)
echo "$checked libraries checked"
((checked > 0)) || { echo "no library to check under $build"; exit 1; }
exit $bad
