#!/usr/bin/env bash
# The tutorial of a release (docs/tutorial-release.md) from its first command to its last, on real weights, in
# a DRILL deployment of its own: each command, what it said, and how long it took. Needs curl, jq and bc.
#
#     bench/walk.sh [DIRECTORY]     default: a new one under the temporary directory
#
# It fails when a command ends otherwise than the tutorial says.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
place=${1:-$(mktemp -d)}
mkdir -p "$place"
export PATH="$PWD/.venv/bin:$PATH" NO_COLOR=1 COLUMNS=150
started=$(date +%s.%N)

# say COMMAND...: show it, run it, show its exit code where it is not 0, and its time. What it prints stays in $said.
say() {
    echo
    echo "\$ $*"
    local began code=0
    began=$(date +%s.%N)
    "$@" >"$place/said" 2>"$place/noted" || code=$?
    said=$(cat "$place/said")
    cat "$place/noted" "$place/said"
    [ "$code" = 0 ] || echo "(exit code $code)"
    echo "($(echo "$(date +%s.%N) - $began" | bc | cut -c1-6) s)"
    last=$code
}
must() { say "$@"; [ "$last" = 0 ]; }
holds() { say "$@"; [ "$last" = 3 ]; }

found() { grep -oE "$1" <<<"$said" | head -1; }

echo "## 1. Who decides"
export MYTHOS_HOME="$place/home" MYTHOS_KEYS="$place/keys"
must mythos build opus
must mythos build capybara
must mythos trust init acme/house --drill --threshold 3 \
    --person evan:evaluator --person rita:scaling_officer --person sam:safety \
    --person eve:executive --person bob:board --person ray:release_engineer
trust=$(found '[0-9a-f]{64}')
must mythos policy lint house
must mythos policy activate house --by rita --by eve --by sam
must mythos person list

echo; echo "## 2. What is measured"
must mythos profile train opus
must mythos evaluate plan opus --suite humaneval --as evan
must mythos evaluate plan opus --suite mmlu_dev --as evan
must mythos evaluate plan opus --suite refusal_held_out --profile guarded --as evan
must mythos evaluate run opus --as evan
must mythos evidence list

echo; echo "## 3. A hold"
holds mythos gate check opus --stage early_access
for person in rita sam bob; do must mythos vote cast opus --stage early_access --as $person; done
holds mythos gate check opus --stage early_access
holds mythos release open opus --stage early_access --as ray
must mythos policy try opus --stage early_access

echo; echo "## 4. The dangers themselves"
own="cyber_flaws autonomy_errands ai_rnd_flaws misalignment_covert"
for suite in $own; do must mythos evaluate plan opus --suite $suite --as evan; done
must mythos evaluate run opus --as evan
for person in rita sam bob; do must mythos vote cast opus --stage early_access --as $person; done
must mythos gate check opus --stage early_access
must mythos release open opus --stage early_access --as ray
holds mythos gate check opus --stage expanded --profile guarded

echo; echo "## 5. Capybara, for defence only"
for suite in $own mmlu_dev; do must mythos evaluate plan capybara --suite $suite --as evan; done
must mythos evaluate run capybara --as evan
for person in rita sam bob; do
    must mythos vote cast capybara --stage early_access --strategy defence_only --as $person
done
must mythos gate check capybara --stage early_access --strategy defence_only
must mythos release open capybara --stage early_access --strategy defence_only --as ray
must mythos org add acme-def --audience researchers --attr jurisdiction=DE --as rita
must mythos grant add acme-def capybara --stage early_access --purpose cyber_defence --days 30 --as rita
must mythos key new acme --org acme-def --purpose cyber_defence
key=$(found 'sk-mythos-[A-Za-z0-9_-]+')
must mythos release status

mythos serve --json >"$place/serving" 2>"$place/serving.log" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true' EXIT
until [ -s "$place/serving" ]; do sleep 0.1; kill -0 $server; done
url=$(jq -r .base_url "$place/serving")
ask() {  # TIER: the status, and the body in $place/answer
    curl -s -o "$place/answer" -D "$place/headers" -w '%{http_code}' "$url/v1/messages" -H "x-api-key: $key" \
        -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' \
        -d "{\"model\": \"$1\", \"max_tokens\": 48, \"messages\": [{\"role\": \"user\", \"content\": \"What is a firewall?\"}]}"
}
expect() {  # TIER STATUS
    echo; echo "\$ asks $1 with the organisation's key"
    local got; got=$(ask "$1"); echo "HTTP $got"; cat "$place/answer"; echo
    [ "$got" = "$2" ]
}
expect capybara 200
receipt=$(tr -d '\r' <"$place/headers" | sed -n 's/^mythos-receipt: //p')
expect opus 404
expect no-such-tier 404
echo; echo "\$ lists models with the organisation's key"
curl -s "$url/v1/models" -H "x-api-key: $key" -H 'anthropic-version: 2023-06-01'; echo

echo; echo "## 6. A suspension"
must mythos release suspend --where nationality=XX --as sam
suspension=$(found 'susp_[A-Za-z0-9]+')
sleep 1
expect capybara 404
must mythos release status
must mythos release resume "$suspension" --by rita --by eve --by sam
sleep 1
expect capybara 200

echo; echo "## 7. A receipt"
curl -s "$url/v1/receipts/$receipt" -H "x-api-key: $key" >"$place/receipt.json"
must python tools/verify_receipt.py "$place/receipt.json" --trust "$trust"
say python tools/verify_receipt.py "$place/receipt.json"
[ "$last" = 5 ]
must mythos why "$place/receipt.json" --trust "$trust"
must mythos receipt verify "$place/receipt.json" --trust "$trust"
must mythos ledger verify --trust "$(mythos ledger key)"
echo
echo "walked in $(echo "($(date +%s.%N) - $started) / 60" | bc) minutes; everything lies in $place"
