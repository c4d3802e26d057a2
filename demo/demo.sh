#!/usr/bin/env bash
# `make demo`: starts the daemon on the embedded SQLite, makes a data set of real text, trains a small teacher, distils four students from
# it and prints the table.  The daemon goes on running, with everything in its history.
#   DEMO_LISTEN   where the daemon listens   (127.0.0.1:8080)
#   DEMO_DIR      its data directory         (build/demo)
set -euo pipefail
cd "$(dirname "$0")/.."
listen=${DEMO_LISTEN:-127.0.0.1:8080}
dir=$(realpath -m "${DEMO_DIR:-build/demo}")
mkdir -p "$dir"

pid_file=$dir/pid
if [ -f "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null; then
    echo "Ending the daemon of the last demo (pid $(cat "$pid_file")); its history stays."
    kill "$(cat "$pid_file")"
    while kill -0 "$(cat "$pid_file")" 2>/dev/null; do sleep 0.1; done
fi

if [ ! -s "$dir/train.tsv" ]; then
    # The package lists may be missing on a fresh system, or hold only what has been installed.
    if [ "$(apt-cache dumpavail 2>/dev/null | grep -c '^Package:')" -lt 20000 ]; then
        echo "Fetching the package lists, whose descriptions are the text of the demo"
        if [ "$(id -u)" -eq 0 ]; then apt-get update -q; else sudo apt-get update -q; fi
    fi
    demo/packages.sh "$dir/train.tsv.part" "$dir/dev.tsv"
    mv "$dir/train.tsv.part" "$dir/train.tsv"
fi

setsid build/distilld serve --listen "$listen" --data-dir "$dir/data" --workers 2 >"$dir/daemon.log" 2>&1 </dev/null &
daemon=$!
echo "$daemon" >"$pid_file"
if ! DEMO_PID=$daemon DEMO_TRAIN=$dir/train.tsv DEMO_DEV=$dir/dev.tsv DISTILLD_URL=http://$listen node demo/demo.mjs; then
    echo "The daemon's log is $dir/daemon.log; its last lines:" >&2
    tail -n 5 "$dir/daemon.log" >&2
    exit 1
fi
echo "The daemon goes on running (pid $daemon, log $dir/daemon.log).  End it with: kill $daemon"
