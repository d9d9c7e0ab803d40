# compact.sh produce   Keyed records and tombstones go to a compacted topic of a running broker, which compacts it; what is
#                      read back is the last value of every key. Records without a key are refused, and a topic's
#                      compression.type is applied.
# compact.sh consume   The same is read again, after whatever happened to the broker.
# compact.sh dump DIR  Kafka's dump tool reads the compacted segments of the stopped broker.
set -euo pipefail
topic=compacted keys=500 records=60000 zipped=stored-as-zstd
tool() { java -Xmx256m -XX:TieredStopAtLevel=1 -cp "$KAFKA/libs/*" "$@"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Keys 0 to 49 are deleted in the end.
wanted() { awk -v n=$records -v k=$keys 'BEGIN { for (i = n - k + 1; i <= n; i++) if (i % k >= 50) print "key" i % k, i }' | sort; }
read_all() { kcat -C -b "$BOOTSTRAP" -t "$topic" -p 0 -o beginning -e -q -Z -f '%o %k %s\n' > "$work/read"; }
check() {
  awk '$1 <= last && NR > 1 { print "offset " $1 " after " last; exit 1 } { last = $1 }' "$work/read"
  # Of what a later record supersedes, anything may be left.
  awk '{ last[$2] = $3 } END { for (key in last) if (last[key] != "NULL" && key !~ /^filler/) print key, last[key] }' "$work/read" |
    sort > "$work/found"
  diff <(wanted) "$work/found"
}

case $1 in
  produce)
    tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$BOOTSTRAP" --create --topic "$topic" --partitions 1 \
      --config cleanup.policy=compact --config segment.bytes=1048576 --config min.cleanable.dirty.ratio=0.01
    seq 1 $records | awk -v k=$keys '{ print "key" $1 % k ":" $1 }' |
      kcat -P -b "$BOOTSTRAP" -t "$topic" -p 0 -K : -z lz4 -X batch.size=4096 -X enable.idempotence=true
    seq 0 49 | sed 's/.*/key&:/' | kcat -P -b "$BOOTSTRAP" -t "$topic" -p 0 -K : -Z
    # The active segment is not compacted: this closes it.
    for round in 1 2 3; do
      seq 1 20000 | sed "s/.*/filler$round:& what closes a segment is of no interest by itself, but has to be long enough/" |
        kcat -P -b "$BOOTSTRAP" -t "$topic" -p 0 -K : -X batch.size=16384
    done
    for _ in $(seq 100); do
      read_all
      [ "$(wc -l < "$work/read")" -lt 25000 ] && break
      sleep 0.3
    done
    lines=$(wc -l < "$work/read")
    echo "$lines records are left"
    [ "$lines" -lt 25000 ] || { echo "it was not compacted"; exit 1; }
    check
    if echo "no key" | kcat -P -b "$BOOTSTRAP" -t "$topic" -p 0 2> "$work/refusal"; then echo "a record without a key was accepted"; exit 1; fi
    grep -qi 'invalid_record\|failed to validate\|invalid record' "$work/refusal" || { cat "$work/refusal"; exit 1; }
    tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$BOOTSTRAP" --create --topic $zipped --partitions 1 \
      --config compression.type=zstd
    seq 1 1000 | kcat -P -b "$BOOTSTRAP" -t $zipped -p 0 -X batch.size=4096
    kcat -C -b "$BOOTSTRAP" -t $zipped -p 0 -o beginning -e -q | diff - <(seq 1 1000)
    ;;
  consume) read_all; check ;;
  dump)
    files=$(find "$2/$topic-0" "$2/$zipped-0" -name '*.log' -o -name '*.index' -o -name '*.timeindex' -o -name '*.snapshot' | paste -sd,)
    tool org.apache.kafka.tools.DumpLogSegments --deep-iteration --files "$files" > "$work/dump"
    # Offsets are missing where compaction was: the tool lists these as non-consecutive.
    if grep -Ei 'isvalid: false|mismatch|corrupt|error|invalid bytes' "$work/dump" | grep -v '^.*payload'; then exit 1; fi
    grep -q 'compresscodec: zstd' "$work/dump" || { echo "nothing is stored with zstd"; exit 1; }
    grep -c '^baseOffset' "$work/dump"
    ;;
esac
