# kafka_files.sh dump DATA_DIR   Kafka's dump tool reads every file of a cleanly stopped data directory.
# kafka_files.sh write DIR PORT  Apache Kafka writes a directory: rolls, all codecs, idempotent producers; stops cleanly.
# kafka_files.sh read            what it wrote is served, offset by offset, and goes on (a broker on DIR runs at $BOOTSTRAP).
set -euo pipefail
topic=written-by-kafka
# Not a function: in the background that would be a shell of its own, and a signal to it would leave the JVM running.
jvm=(java -Xmx512m -XX:TieredStopAtLevel=1 -cp "$KAFKA/libs/*")

produce() { # LINES CODEC
  seq 1 "$1" | sed "s/.*/$2 &: a line that is long enough to fill a segment after some thousands of its kind /" |
    kcat -P -b "$BOOTSTRAP" -t "$topic" -p 0 -z "$2" -X enable.idempotence=true -X batch.size=16384
}

case $1 in
  dump)
    # Where compaction was, offsets are missing, which the tool does not like: compact.sh looks at those.
    files=$(find "$2" -path '*/compacted-*' -prune -o \
      \( -name '*.log' -o -name '*.index' -o -name '*.timeindex' -o -name '*.snapshot' \) -print | paste -sd,)
    out=$(mktemp)
    trap 'rm -f "$out"' EXIT
    "${jvm[@]}" org.apache.kafka.tools.DumpLogSegments --deep-iteration --files "$files" > "$out"
    segments=$(find "$2" -name '*.log' | wc -l)
    echo "$segments segments, $(grep -c '^baseOffset' "$out") batches"
    # The tool says what is wrong in its output only. An index file without entries it calls empty.
    if grep -Ei 'isvalid: false|mismatch|non-consecutive|corrupt|error|invalid bytes' "$out" | grep -v '^.*payload'; then exit 1; fi
    [ "$segments" -gt 3 ] || { echo "too few segments to mean anything"; exit 1; }
    ;;
  write)
    dir=$2 port=$3
    mkdir -p "$dir"
    cat > "$dir.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$dir
log.segment.bytes=1048576
num.partitions=2
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
PROPERTIES
    "${jvm[@]}" kafka.tools.StorageTool format -t AAECAwQFBgcICQoLDA0ODw -c "$dir.properties"
    "${jvm[@]}" kafka.Kafka "$dir.properties" &
    kafka=$!
    trap 'kill -KILL $kafka 2>/dev/null || true' EXIT
    export BOOTSTRAP=127.0.0.1:$port
    for _ in $(seq 120); do kcat -b "$BOOTSTRAP" -L -m 2 >/dev/null 2>&1 && break; sleep 0.5; done
    for codec in none gzip snappy lz4 zstd; do produce 20000 $codec; done
    # Two brokers in one directory would lose records of both.
    refused=$("$BROKER" serve --data-dir "$dir" --listen 127.0.0.1:0 2>&1) && { echo "served while Kafka runs"; exit 1; }
    grep -q 'another process uses this data directory' <<< "$refused" || { echo "$refused"; exit 1; }
    kill -TERM $kafka
    wait $kafka || true
    trap - EXIT
    [ -e "$dir/.kafka_cleanshutdown" ] || { echo "Kafka did not stop cleanly"; exit 1; }
    [ "$(find "$dir/$topic-0" -name '*.log' | wc -l)" -gt 1 ] || { echo "Kafka rolled no segment"; exit 1; }
    ;;
  read)
    check() { # EXPECTED
      kcat -C -b "$BOOTSTRAP" -t "$topic" -p 0 -o beginning -e -q -f '%o %s\n' > "$work"
      [ "$(wc -l < "$work")" = "$1" ] || { echo "$(wc -l < "$work") records, $1 expected"; exit 1; }
      awk '$1 != NR - 1 { print "offset " $1 " at line " NR; exit 1 }' "$work"
    }
    work=$(mktemp)
    trap 'rm -f "$work"' EXIT
    check 100000
    # From the middle: index files that Kafka wrote lead there.
    kcat -C -b "$BOOTSTRAP" -t "$topic" -p 0 -o 54321 -c 1 -e -q -f '%o %s\n' | grep -q '^54321 snappy 14322: '
    produce 1000 none
    check 101000
    ;;
esac
