#!/bin/sh
# Real text that every Debian has: the one-line descriptions of its packages, labelled by section.  Eight sections that take some telling
# apart; texts that stand in two sections or twice are left out, as are the ones that say nothing (transitional and debug packages).
# usage: demo/packages.sh train.tsv dev.tsv       (about 12,000 rows in all; every tenth goes to dev)
set -eu
[ -n "$(apt-cache dumpavail | head -c 1)" ] || { echo "apt-cache dumpavail is empty: run apt-get update first" >&2; exit 1; }
apt-cache dumpavail | awk -v train="$1" -v dev="$2" '
    BEGIN { split("admin devel games net science sound text utils", names, " "); for (i in names) wanted[names[i]] = 1 }
    function finish() {
        sub(/^.*\//, "", section)
        if (section in wanted && text != "" && text !~ /transitional|dummy package|debug symbols|metapackage/) {
            gsub(/[\t\r"]/, " ", text)
            if (!(text in label)) { label[text] = section; order[++n] = text }
            else if (label[text] != section) label[text] = "ambiguous"
        }
        section = text = ""
    }
    /^Section: /         { section = $2 }
    /^Description(-en)?: / { if (text == "") { text = $0; sub(/^[^ ]* /, "", text) } }
    /^$/                 { finish() }
    END {
        finish()
        for (i = 1; i <= n; i++) if (label[order[i]] != "ambiguous") {
            kept++
            print order[i] "\t" label[order[i]] > (kept % 10 == 0 ? dev : train)
        }
        if (kept < 1000) { print "only " kept " descriptions found" > "/dev/stderr"; exit 1 }
    }'
