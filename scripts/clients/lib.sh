# Assertions for the shell clients. Source it.

checks=0

fail() {
  printf '%s: FAILED: %s\n' "$(basename "$0")" "$1" >&2
  [ $# -lt 2 ] || printf '%.2000s\n' "$2" >&2
  exit 1
}

# has WHAT TEXT PATTERN: TEXT contains the extended regular expression.
has() {
  grep -Eq -- "$3" <<<"$2" || fail "$1: no match for $3 in:" "$2"
  checks=$((checks + 1))
}

# hasnot WHAT TEXT PATTERN
hasnot() {
  if grep -Eq -- "$3" <<<"$2"; then fail "$1: unexpected $3 in:" "$2"; fi
  checks=$((checks + 1))
}

# same WHAT GOT WANT
same() {
  [ "$2" = "$3" ] || fail "$1: got '$2', want '$3'"
  checks=$((checks + 1))
}

passed() { printf '%s: %d checks passed\n' "$(basename "$0")" "$checks"; }
