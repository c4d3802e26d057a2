#!/usr/bin/env bash
# The life of the package, inside a clean chroot (tests/package/check).  There is no systemd to start the service here, so the
# daemon is started as the unit would: its ExecStart, its user, its StateDirectory.  Ends at the first thing that is not so.
set -euo pipefail
cd /root/deb
data=/var/lib/distilld url='' daemon='' passed=0
say() { printf '%s\n' "$*"; }
ok() { passed=$((passed + 1)); say "ok   $*"; }
fail() { say "FAIL $*" >&2; [ -f daemon.log ] && tail -n 20 daemon.log >&2; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1: expected \"$3\", got \"$2\""; ok "$1"; } # what, got, expected
apt() { apt-get -qq -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$@" >apt.log 2>&1 || { tail -n 30 apt.log >&2; fail "apt-get $*"; }; }
api() { curl -sS --fail-with-body "$url$1" "${@:2}"; }
json() { jq -r "$1"; }
until_true() { local n; for n in $(seq 600); do "${@:2}" && return; sleep 0.1; done; fail "waited in vain for $1"; }

start() { # by the unit's own words
    local unit=/lib/systemd/system/distilld.service words
    read -ra words <<<"$(sed -n 's/^ExecStart=//p' "$unit")"
    : >daemon.log
    setpriv --reuid "$(sed -n 's/^User=//p' "$unit")" --regid "$(sed -n 's/^Group=//p' "$unit")" --init-groups --no-new-privs --bounding-set=-all \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin STATE_DIRECTORY="/var/lib/$(sed -n 's/^StateDirectory=//p' "$unit")" \
        DISTILLD_LISTEN=127.0.0.1:0 "${words[@]}" >>daemon.log 2>&1 &
    daemon=$!
    until_true "the daemon's address" grep -q ' at http://' daemon.log
    url=$(sed -nE 's/.* at (http:[^ ]+) .*/\1/p' daemon.log)
    is "$1: GET /readyz" "$(curl -s -o /dev/null -w '%{http_code}' "$url/readyz")" 200
}
stop() {
    kill "$daemon"
    wait "$daemon" || fail "the daemon ended with $?"
    daemon=''
}
finished() { [ "$(api "/api/v1/experiments/$1" | json .status)" = finished ]; }
history() { api "/api/v1/experiments/$1/metrics" | sha256sum; }
train() { # spec: its id
    local id
    id=$(api /api/v1/experiments -H 'Content-Type: application/json' -d "$1" | json .id)
    until_true "run $id to finish" finished "$id"
    say "$id" >id
}

apt update
apt install --no-install-recommends curl jq sqlite3
find / -xdev -path /proc -prune -o -print | sort >before

apt install --no-install-recommends ./first.deb
first=$(dpkg-query -W -f '${Version}' distilld)
is "installed" "$(dpkg-query -W -f '${db:Status-Status}' distilld)" installed
is "every file as packaged" "$(dpkg --verify distilld)" ""
is "the account" "$(getent passwd distilld | cut -d: -f6,7)" /var/lib/distilld:/usr/sbin/nologin
is "its password is locked" "$(getent shadow distilld | cut -d: -f2 | cut -c1)" '!'
is "the data directory" "$(stat -c '%U:%G %a' $data)" "distilld:distilld 750"
is "the unit is enabled" "$(readlink /etc/systemd/system/multi-user.target.wants/distilld.service)" /lib/systemd/system/distilld.service
is "the configuration is a conffile" "$(dpkg-query -W -f '${Conffiles}' distilld | awk '{print $1}' | xargs)" /etc/distilld/distilld.conf
for file in /usr/share/man/man1/distilld.1.gz /usr/share/man/man5/distilld.conf.5.gz /usr/share/doc/distilld/{README.md.gz,README.Debian,copyright,third-party.txt.gz}; do
    [ -s "$file" ] || fail "$file is missing"
done
ok "man pages and documents"
is "the installed unit is sound" "$(systemd-analyze verify --man=no /lib/systemd/system/distilld.service 2>&1)" ""
is "the version" "$(distilld version | cut -d' ' -f2)" "$first"
is "root's commands find the service's data" "$(distilld token list 2>&1)" "There are no tokens in $data."

start "first version"
for i in $(seq 80); do printf 'red apple %d\tfruit\nblue bus %d\ttraffic\n' "$i" "$i"; done >rows.tsv
api /api/v1/datasets -F name=words -F train=@rows.tsv >/dev/null
train '{"task": "finetune", "dataset": "words", "save_as": "teacher", "layers": 1, "heads": 2, "hidden_size": 32, "intermediate_size": 64, "vocab_size": 200, "epochs": 2}'
teacher=$(cat id) kept=$(history "$(cat id)")
ok "a run finished"
distilld backup /srv/backup >/dev/null
is "nothing of it belongs to root" "$(find $data ! -user distilld)" ""
stop

echo 'log-level = warning' >>/etc/distilld/distilld.conf
apt install --no-install-recommends ./next.deb
is "upgraded" "$(dpkg-query -W -f '${Version}' distilld)" "$first+next"
is "the administrator's configuration stays" "$(tail -n 1 /etc/distilld/distilld.conf)" 'log-level = warning'
sed -i '$d' /etc/distilld/distilld.conf
start "next version"
is "the run is as it was" "$(history "$teacher")" "$kept"
train '{"dataset": "words", "teacher": "teacher", "layers": 1, "epochs": 1}'
ok "its model teaches"
stop

mv $data kept
for sql in schema/v*.sql; do # what no row names is removed at start, so each has a directory of its own
    rm -rf $data
    install -d -o distilld -g distilld -m 750 $data
    sqlite3 $data/distilld.db <"$sql"
    chown distilld:distilld $data/distilld.db
    start "a database of schema $(basename "$sql" .sql)"
    is "its finished run" "$(api /api/v1/experiments/2 | json '"\(.status), \(.name), \(.best.epoch >= 1)"')" "finished, it's whole: 学生, true"
    is "its epochs" "$(api /api/v1/experiments/2/metrics | json '.epochs | length')" 2
    stop
done
rm -rf $data
mv kept $data

apt remove distilld
is "removed" "$(ls /usr/bin/distilld /lib/systemd/system/distilld.service 2>/dev/null)" ""
[ -f /etc/distilld/distilld.conf ] && [ -d "$data/runs/$teacher" ] || fail "removing took configuration or data"
ok "removing keeps configuration and data"
apt install --no-install-recommends ./next.deb
start "installed again"
is "the run is there again" "$(history "$teacher")" "$kept"
stop

apt purge distilld
[ ! -e $data ] && [ ! -e /etc/distilld ] || fail "left after purge: $(ls -d $data /etc/distilld 2>/dev/null)"
ok "purging takes data and configuration"
apt autoremove --purge
left=$(find / -xdev -path /proc -prune -o -print | sort | comm -13 before - | grep distilld | grep -v -e '^/root/deb/' -e '^/srv/backup' || true)
is "no file of the package is left" "$left" ""
[ -f /srv/backup/distilld.db ] || fail "the backup went with it"
ok "a backup elsewhere stays"
is "the account stays" "$(getent passwd distilld | cut -d: -f7)" /usr/sbin/nologin
say "$passed checks passed"
