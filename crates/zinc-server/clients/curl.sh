#!/bin/sh
# The framing of responses as curl sees it.
set -eu
auth="authorization: Bearer $ZINC_KEY"
json='content-type: application/json'
body='{"messages":[{"role":"user","content":"Tell me a story."}],"max_tokens":8,"temperature":0'
out=$(mktemp)
trap 'rm -f "$out" "$out.head"' EXIT

fail() { echo "curl: $1"; cat "$out.head" "$out"; exit 1; }

curl -sS -N -D "$out.head" -o "$out" -H "$auth" -H "$json" -d "$body,\"stream\":true}" "$ZINC_URL/v1/chat/completions"
grep -qi '^content-type: text/event-stream' "$out.head" || fail "no event stream"
grep -qi '^transfer-encoding: chunked' "$out.head" || fail "not chunked"
# Every other line is empty, every event is one data line, the last is the end.
awk 'NR % 2 == 0 && $0 != "" { exit 1 } NR % 2 == 1 && !/^data: / { exit 1 }' "$out" || fail "lines that are no events"
[ "$(grep -c '^data: \[DONE\]$' "$out")" = 1 ] || fail "no end"
[ "$(tail -n 2 "$out" | head -n 1)" = 'data: [DONE]' ] || fail "something behind the end"

curl -sS -D "$out.head" -o "$out" -H "$auth" -H "$json" -d "$body}" "$ZINC_URL/v1/chat/completions"
length=$(tr -d '\r' < "$out.head" | awk 'tolower($1) == "content-length:" { print $2 }')
[ "$length" = "$(wc -c < "$out" | tr -d ' ')" ] || fail "wrong content-length"

status=$(curl -sS -o "$out" -D "$out.head" -w '%{http_code}' "$ZINC_URL/v1/models")
[ "$status" = 401 ] || fail "no key and no refusal"
status=$(curl -sS -o "$out" -D "$out.head" -w '%{http_code}' "$ZINC_URL/health")
[ "$status" = 200 ] || fail "health needs a key"
status=$(curl -sS -o "$out" -D "$out.head" -w '%{http_code}' -I -H "$auth" "$ZINC_URL/v1/models")
[ "$status" = 200 ] || fail "HEAD is refused"
status=$(curl -sS -o "$out" -D "$out.head" -w '%{http_code}' -H "$auth" -H "$json" -H 'expect: 100-continue' -d "$body}" "$ZINC_URL/v1/chat/completions")
[ "$status" = 200 ] || fail "expect: 100-continue is not answered"
echo ok
