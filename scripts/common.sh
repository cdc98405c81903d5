# Shared by the scripts of this folder; sourced, not run. Sets `root` and `jobs`.
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
jobs=$(nproc 2>/dev/null || echo 2)

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2; exit 1; }

# configure DIR OPTION…: a build directory with exactly these options; nothing happens when it has them already. Four source files are
# compiled as one, which takes half the time where all are to be compiled; with CWSANDBOX_FILES_PER_UNIT=1, one that changed takes less.
configure() {
  dir=$1
  shift
  set -- "$@" "-Dfiles_per_unit=${CWSANDBOX_FILES_PER_UNIT:-4}"
  wanted="${CXX-} $*"
  if [ -f "$dir/build.ninja" ] && [ "$(cat "$dir/.cwsandbox-options" 2>/dev/null)" = "$wanted" ]; then
    return 0
  fi
  # Dozens of test programs with all the debug information of the library: another linker needs a third of the time for them.
  case " $* " in
    *' --buildtype=debug '*) if command -v ld.lld >/dev/null 2>&1; then export CXX_LD="${CXX_LD-lld}"; fi ;;
  esac
  if [ -f "$dir/build.ninja" ]; then
    meson setup --reconfigure "$dir" "$root" "$@" # keeps what is compiled
  else
    rm -rf "$dir" # left half-configured, or not a build directory at all
    meson setup "$dir" "$root" "$@"
  fi
  printf '%s\n' "$wanted" >"$dir/.cwsandbox-options"
}

# configure_release DIR [OPTION…]: what is used and measured. -O3, which is what meson's release has, gains nothing over -O2 here and takes a
# sixth more of the compiler's time; only the buildtype of meson.build is left alone, for one that is given sets -O3 again.
configure_release() {
  dir=$1
  shift
  configure "$dir" -Doptimization=2 -Dtests=false -Dexamples=false "$@"
}

# configure_debug DIR [OPTION…]: what is tested.
configure_debug() {
  dir=$1
  shift
  configure "$dir" --buildtype=debug -Dbench=true "$@"
}

# Clang 19 under the name that this system gives it. ccache is used when it is there, as meson does by itself for the default compiler.
clang_cxx() {
  for name in clang++-19 clang++; do
    if command -v "$name" >/dev/null 2>&1; then
      if command -v ccache >/dev/null 2>&1; then echo "ccache $name"; else echo "$name"; fi
      return 0
    fi
  done
  return 1
}

# as_root COMMAND…
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null 2>&1; then
    sudo "$@"
  else
    die "not root, and there is no sudo. As root, run:
  $*"
  fi
}

# copy_tree DIR: what belongs to the project, as it is now, without what was built.
copy_tree() {
  mkdir -p "$1"
  if git -C "$root" rev-parse --git-dir >/dev/null 2>&1; then
    (cd "$root" && git ls-files -z -co --exclude-standard | tar --null -T - --ignore-failed-read -cf -) | tar -xf - -C "$1"
  else
    tar -C "$root" --exclude='./build*' --exclude='./subprojects/packagecache' -cf - . | tar -xf - -C "$1"
  fi
}

# Where the sanitizers of clang find the names for their reports, and for what is suppressed by name.
clang_symbolizer() {
  command -v llvm-symbolizer-19 || command -v llvm-symbolizer || die "llvm-symbolizer is not installed: scripts/deps --ci installs it"
}
