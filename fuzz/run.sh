#!/usr/bin/env bash
# Runs fuzz targets one after the other, guided by coverage, and adds what is new to the corpus.
#
#   fuzz/run.sh [SECONDS] [TARGET...]        SECONDS a target (60); all targets without a name
#
# Needs a stable toolchain and a C++ compiler, not cargo-fuzz: the coverage that libFuzzer wants is a pass of LLVM that
# any rustc can be told to run. There is no address sanitizer with it; the crate forbids unsafe code.
#
# Inputs that reach code which no other input reaches are written to corpus/TARGET/found-HASH, minimised as a set: at
# most KEEP (12) a target, of at most 4096 bytes. All of them are in target/grown/TARGET and are where the next run
# begins. An input that breaks something is in target/artifacts/TARGET-…; the script then ends with status 1.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
shift || true
keep=${KEEP:-12}
if [ $# -gt 0 ]; then targets=("$@"); else targets=($(sed -n 's/^    ("\([a-z_]*\)", .*/\1/p' entry_points/mod.rs)); fi

host=$(rustc -vV | sed -n 's/^host: //p')
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags="$flags -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
flags="$flags --cfg fuzzing -Cdebug-assertions -Ccodegen-units=8"
# The versions that are tested, not the newest ones.
[ -f Cargo.lock ] || cp ../Cargo.lock Cargo.lock
# With a target of its own, so that build scripts and macros are not instrumented.
RUSTFLAGS="$flags" cargo build --release --target "$host" --bin any --target-dir target
fuzzer=target/$host/release/any

bad=0
printf '%-18s %9s %7s %7s %7s %6s\n' target execs/s edges before files new
for target in "${targets[@]}"; do
    export TARGET=$target
    grown=target/grown/$target
    mkdir -p "$grown" "corpus/$target" target/artifacts target/logs
    log=target/logs/$target
    status=0
    "$fuzzer" "$grown" "corpus/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -max_len=65536 \
        -artifact_prefix="target/artifacts/$target-" -print_final_stats=1 >"$log" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        bad=1
        echo "$target: status $status, see fuzz/$log"
        tail -n 5 "$log"
        continue
    fi
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    before=$(sed -n 's/.*INITED cov: \([0-9]*\).*/\1/p' "$log" | head -n 1)
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    # What the corpus lacks, smallest first: libFuzzer's merge adds only what reaches something new.
    fresh=target/fresh/$target
    rm -rf "$fresh" "$fresh.small"
    mkdir -p "$fresh" "$fresh.small"
    find "$grown" -type f -size -4097c -exec cp {} "$fresh.small/" \;
    cp -r "corpus/$target/." "$fresh/"
    "$fuzzer" -merge=1 "$fresh" "$fresh.small" >"$log.merge" 2>&1 || true
    new=0
    for file in $(cd "$fresh" && find . -type f -printf '%s %f\n' | sort -n | cut -d' ' -f2); do
        [ -e "corpus/$target/$file" ] && continue
        [ "$new" -ge "$keep" ] && break
        cp "$fresh/$file" "corpus/$target/found-${file:0:16}"
        new=$((new + 1))
    done
    printf '%-18s %9s %7s %7s %7s %6s\n' "$target" "$rate" "$edges" "$before" "$(find "$grown" -type f | wc -l)" "$new"
done
exit "$bad"
