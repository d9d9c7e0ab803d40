# kcat: librdkafka 2.0, the oldest here.
set -euo pipefail
topic=kcat-topic
if [ "$1" = produce ]; then
  for acks in 0 1 -1; do
    seq 1 1000 | sed "s/^/acks $acks: /" | kcat -P -b "$BOOTSTRAP" -t "$topic" -p 0 -X acks=$acks -X linger.ms=1
  done
  for codec in gzip snappy lz4 zstd; do
    seq 1 100 | sed "s/^/$codec: /" | kcat -P -b "$BOOTSTRAP" -t "$topic" -p 0 -z "$codec" -X enable.idempotence=true
  done
fi
lines=$(kcat -C -b "$BOOTSTRAP" -t "$topic" -p 0 -o beginning -e -q | sort -u | wc -l)
[ "$lines" = 3400 ] || { echo "$lines lines, 3400 expected"; exit 1; }
kcat -L -b "$BOOTSTRAP" -t "$topic" | grep -q "partition 0, leader"
