#!/usr/bin/env bash
# The service under a systemd of its own, in the chroot that tests/package/check boots: started, reloaded, watched, upgraded,
# removed by the package's scripts, with every restriction of the unit in force while it trains.
set -euo pipefail
cd /root/deb
passed=0
say() { printf '%s\n' "$*"; }
ok() { passed=$((passed + 1)); say "ok   $*"; }
fail() { say "FAIL $*"; journalctl -u distilld -n 30 --no-pager; systemctl status distilld --no-pager || true; exit 1; }
until_true() { local n; for n in $(seq 600); do "${@:2}" && { ok "$1"; return; }; sleep 0.1; done; fail "waited in vain: $1"; }
url() { journalctl -u distilld -o cat --no-pager | sed -nE 's/.* at (http:[^ ]+) .*/\1/p' | tail -n 1; }
ready() { [ "$(curl -s -o /dev/null -w '%{http_code}' "$(url)/readyz")" = 200 ]; }
pid() { systemctl show -P MainPID distilld; }
another() { local now; now=$(pid); [ "$now" != 0 ] && [ "$now" != "$before" ] && ready; }
finished() { [ "$(curl -sS "$(url)/api/v1/experiments/$1" | jq -r .status)" = finished ]; }
said() { journalctl -u distilld --no-pager | grep -q "$1"; }

# A free port and a quick watchdog for this test; the rest is the unit as it was installed.
mkdir -p /etc/systemd/system/distilld.service.d
printf '[Service]\nEnvironment=DISTILLD_LISTEN=127.0.0.1:0\nWatchdogSec=3s\n' >/etc/systemd/system/distilld.service.d/test.conf
apt-get -qq install --no-install-recommends ./first.deb >apt.log 2>&1 || { tail apt.log; fail "apt-get install"; }
until_true "installing starts the service" ready
[ "$(systemctl is-enabled distilld)" = enabled ] || fail "not enabled"
for i in $(seq 80); do printf 'red apple %d\tfruit\nblue bus %d\ttraffic\n' "$i" "$i"; done >rows.tsv
curl -sS --fail-with-body "$(url)/api/v1/datasets" -F name=words -F train=@rows.tsv >/dev/null
id=$(curl -sS --fail-with-body "$(url)/api/v1/experiments" -H 'Content-Type: application/json' -d '{"task": "finetune", "dataset": "words",
    "layers": 1, "heads": 2, "hidden_size": 32, "intermediate_size": 64, "vocab_size": 200, "epochs": 2}' | jq -r .id)
until_true "a run finishes inside the sandbox" finished "$id"
sed -i 's/^#log-level = .*/log-level = debug/' /etc/distilld/distilld.conf
before=$(pid)
systemctl reload distilld || fail "reload"
until_true "reload reads the configuration again" said 'log level is debug'
[ "$(pid)" = "$before" ] && ready || fail "reload restarted it"
kill -KILL "$before"
until_true "killed, it is back" another
before=$(pid)
kill -STOP "$before"
until_true "stopped in its tracks, the watchdog brings it back" another
until_true "the run is still there" finished "$id"
before=$(pid)
apt-get -qq -o Dpkg::Options::=--force-confold install ./next.deb >apt.log 2>&1 || { tail apt.log; fail "upgrade"; }
until_true "an upgrade restarts it" another
until_true "the run is there after the upgrade" finished "$id"
apt-get -qq remove distilld >apt.log 2>&1 || { tail apt.log; fail "remove"; }
ready && fail "removed, it still answers"
ok "removing stops it"
say "$passed checks passed"
