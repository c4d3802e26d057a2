#!/usr/bin/env bash
# The experiment of the note on real Chinese headlines in the shape of its second data set: a teacher of 4 layers × 256 from scratch, then
# students of 1 and 3 layers, each with AdamW and with SGD 0.05, T 4 and alpha 0.2.  Everything goes in by curl.
#   demo/note.sh DATA_DIR [EPOCHS]      DATA_DIR holds train.tsv and dev.tsv (text, tab, label); EPOCHS of the students (30)
#   demo/note.sh --table ID...          only the table, of runs that have ended
# DISTILLD_URL names a running daemon (http://127.0.0.1:8080).  Prints the table in the form of the note.
set -euo pipefail
url=${DISTILLD_URL:-http://127.0.0.1:8080}/api/v1
json=(-sS --fail-with-body -H 'Content-Type: application/json')
field() { node -e 'let s="";process.stdin.on("data",d=>s+=d).on("end",()=>console.log(process.argv[1].split(".").reduce((o,k)=>o?.[k],JSON.parse(s))??""))' "$1"; }


table() { # ids
    echo '| model | epoch | accuracy | macro P | macro R | macro F1 | weighted P | weighted R | weighted F1 |'
    echo '|---|---|---|---|---|---|---|---|---|'
    for id in "$@"; do
        curl -sS "$url/experiments/$id" >"${TMPDIR:-/tmp}/note-$$.e"
        curl -sS "$url/experiments/$id/metrics" >"${TMPDIR:-/tmp}/note-$$.m"
        node -e '
            const [e, m] = process.argv.slice(1).map((f) => JSON.parse(require("fs").readFileSync(f)));
            const teacher = e.spec.task === "finetune";
            const label = teacher ? "teacher" : `${e.spec.layers} layer${e.spec.layers > 1 ? "s" : ""}, ${e.spec.optimizer.type}`;
            const f = (x) => x.toFixed(4).replace(/^0/, "");
            const rows = teacher ? [] : m.epochs.filter((r) => r.epoch % 10 === 0 || r.epoch === m.epochs.length);
            const best = m.epochs[e.best.epoch - 1];
            for (const [r, mark] of [...rows.map((r) => [r, ""]), [best, " (best)"]])
                console.log(`| ${label} | ${r.epoch}${mark} | ${[r.accuracy, r.macro_precision, r.macro_recall, r.macro_f1, r.weighted_precision, r.weighted_recall, r.weighted_f1].map(f).join(" | ")} |`);
        ' "${TMPDIR:-/tmp}/note-$$.e" "${TMPDIR:-/tmp}/note-$$.m"
    done
    rm -f "${TMPDIR:-/tmp}/note-$$.e" "${TMPDIR:-/tmp}/note-$$.m"
}

if [ "${1:-}" = --table ]; then
    table "${@:2}"
    exit
fi
data=${1:?usage: demo/note.sh DATA_DIR [EPOCHS]}
epochs=${2:-30}
name=$(basename "$data")

curl -sf "$url/datasets/$name" >/dev/null ||
    curl -sS --fail-with-body -F name="$name" -F train=@"$data/train.tsv" -F dev=@"$data/dev.tsv" "$url/datasets" >/dev/null

submit() { curl "${json[@]}" -d "$1" "$url/experiments" | field id; }
wait_for() {
    local status
    while status=$(curl -sS "$url/experiments/$1" | field status); [[ $status =~ ^(queued|running|paused)$ ]]; do sleep 1; done
    [ "$status" = finished ] || { echo "experiment $1 is $status" >&2; exit 1; }
}

teacher=note-teacher-$(date +%s)
teacher_id=$(submit '{"name":"note: teacher","task":"finetune","dataset":"'"$name"'","layers":4,"heads":4,"hidden_size":256,"intermediate_size":1024,
    "vocab_size":8000,"optimizer":{"type":"adamw","lr":3e-4},"epochs":8,"max_length":64,"save_as":"'"$teacher"'","tags":["note"]}')
wait_for "$teacher_id"
ids=()
for layers in 1 3; do
    for optimizer in '"adamw"' '{"type":"sgd","lr":0.05,"schedule":"constant","warmup":0}'; do
        ids+=("$(submit '{"name":"note: '"$layers"' layers","dataset":"'"$name"'","teacher":"'"$teacher"'","layers":'"$layers"',"init":"random",
            "optimizer":'"$optimizer"',"T":4,"alpha":0.2,"epochs":'"$epochs"',"max_length":64,"tags":["note"]}')")
    done
done
for id in "${ids[@]}"; do wait_for "$id"; done

table "$teacher_id" "${ids[@]}"
