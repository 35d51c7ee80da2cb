# The probe: one POSIX sh program that every backend runs, with dash and with busybox ash.
# It installs its handler first, then says READY, then one JSON line every EVERY with the uptime of the machine.
# Call: sh -c SCRIPT probe EVERY MODE ARGS...; times are in hundredths of a second, EVERY is below a second. It must
# not contain two dollar signs in a row, a percent sign before a brace, or double braces: backends rewrite them, and
# DISP-04 is there to see it.
who=leader
terms=0
words=0
stop_at=

clock() { read -r up rest </proc/uptime; now=${up%.*}${up#*.}; }
say() { clock; printf '{"event":"%s","who":"%s","at":%s}\n' "$1" "$who" "$up"; }
show() { printf '{"event":"%s","who":"%s","hex":"%s"}\n' "$1" "$who" "$(printf '%s' "$2" | od -A n -v -t x1 | tr -d ' \n')"; }
mark() { # TYPE DATA [DISPATCH [SUBJECT]]: a worker's word, as a marked line
  words=$((words + 1)); whose=${3:-$AGORA_DISPATCH_ID}
  printf '\036agora:1:%s {"id":"feed.%s","type":"dispatch.%s","subject":"%s","sequence":%s,"data":{%s} }\n' \
    "$whose" "$words" "$1" "${4:-$whose}" "$words" "$2"
}
nap() { # TIME: below a second; a signal ends it
  case $1 in ?) sleep "0.0$1" & ;; *) sleep "0.$1" & ;; esac
  wait "$!"
}
beat() { # [LEFT]: sleep no longer than that
  say beat
  if [ "${1:-$every}" -lt "$every" ]; then nap "$1"; else nap "$every"; fi
}
on_term() {
  terms=$((terms + 1)); say term
  if [ -n "$linger" ] && [ -z "$stop_at" ]; then clock; stop_at=$((now + linger)); fi
}
finish() { say exit; exit "$1"; }
ready() { say READY; clock; born=$now; }

every=$1; mode=$2; shift 2
linger=
case $mode in
graceful) # CODE LINGER: after SIGTERM, clean up for LINGER and exit with CODE
  linger=$2; trap on_term TERM; ready
  while :; do
    clock; if [ -n "$stop_at" ] && [ "$now" -ge "$stop_at" ]; then finish "$1"; fi
    beat ${stop_at:+"$((stop_at - now))"}
  done ;;
stubborn) # see SIGTERM, say so, go on
  trap on_term TERM; ready
  while :; do beat; done ;;
tree) # CODE AFTER: a child that ignores SIGTERM and one that left the session; exit after AFTER, or on SIGTERM for 0
  linger=0; trap on_term TERM
  ( who=child; trap '' TERM; while :; do beat; done ) &
  ( setsid sh -c 'trap "" TERM; say() { read -r up rest </proc/uptime; printf "{\"event\":\"%s\",\"who\":\"escaped\",\"at\":%s}\n" "$1" "$up"; }
      say READY; while :; do say beat; sleep "0.$1" & wait "$!"; done' escaped "$every" & )
  ready
  while :; do
    clock
    if [ "$2" -gt 0 ] && [ "$now" -ge $((born + $2)) ]; then finish "$1"; fi
    if [ -n "$stop_at" ]; then finish "$1"; fi
    if [ "$2" -gt 0 ]; then beat "$((born + $2 - now))"; else beat; fi
  done ;;
worker) # CODE AFTER CLEAN: say what a worker says; exit after AFTER, or on SIGTERM, with two words that it was cancelled
  linger=0; trap on_term TERM; ready
  for done in 1 2 3; do mark progress "\"done\":$done"; done
  while :; do
    clock
    if [ "$2" -gt 0 ] && [ "$now" -ge $((born + $2)) ]; then finish "$1"; fi
    if [ -n "$stop_at" ]; then mark cancelled "\"clean\":$3"; mark cancelled '"clean":true'; finish "$1"; fi
    beat
  done ;;
impostor) # OTHER: on SIGTERM say what nobody may believe
  linger=0; trap on_term TERM; ready
  while [ -z "$stop_at" ]; do beat; done
  mark cancelled '"clean":true' "$1"
  mark cancelled '"clean":true' "$AGORA_DISPATCH_ID" "$1"
  mark started ''
  mark terminated '"state":"succeeded"'
  printf '\036agora:1:%s {"type":"dispatch.cancelled"\n' "$AGORA_DISPATCH_ID"
  printf 'agora:1:%s {"type":"dispatch.cancelled","data":{"clean":true} }\n' "$AGORA_DISPATCH_ID"
  finish 0 ;;
exit) # CODE AFTER: run for AFTER without a handler, then exit with CODE
  ready
  while :; do
    clock; if [ "$now" -ge $((born + $2)) ]; then finish "$1"; fi
    beat "$((born + $2 - now))"
  done ;;
default) # no handler at all
  ready
  while :; do beat; done ;;
never-ready) # nothing is ever said
  while :; do nap "$every"; done ;;
arguments) # ARG...: show every argument
  ready
  for value in "$@"; do show argument "$value"; done
  finish 0 ;;
environment) # NAME...: show the variables and the working directory
  ready
  for name in "$@"; do eval "value=\${$name-}"; show "$name" "$value"; done
  show directory "$PWD"
  finish 0 ;;
length) # NAME: count the bytes of a variable
  ready
  eval "value=\${$1-}"
  printf '{"event":"length","who":"%s","bytes":%s}\n' "$who" "${#value}"
  finish 0 ;;
lines) # COUNT: numbered lines on both streams
  ready
  count=0
  while [ "$count" -lt "$1" ]; do
    count=$((count + 1))
    printf '{"event":"line","who":"%s","number":%s}\n' "$who" "$count"
    printf 'error %s\n' "$count" >&2
  done
  finish 0 ;;
memory) # CODE: take memory until something stops it
  ready
  data=0123456789abcdef
  while :; do data=$data$data; done ;;
*) exit 64 ;;
esac
