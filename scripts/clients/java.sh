# Apache Kafka's own tools: the Java producer, consumer and admin client.
set -euo pipefail
topic=java-topic
tool() { java -Xmx256m -cp "$KAFKA/libs/*" "$@"; }
tools=org.apache.kafka.tools
if [ "$1" = produce ]; then
  tool $tools.TopicCommand --bootstrap-server "$BOOTSTRAP" --create --topic "$topic" --partitions 3 --replication-factor 1
  tool $tools.TopicCommand --bootstrap-server "$BOOTSTRAP" --describe --topic "$topic" | grep -q "PartitionCount: 3"
  for acks in 0 1 all; do
    seq 1 500 | sed "s/^/acks $acks: /" |
      tool $tools.ConsoleProducer --bootstrap-server "$BOOTSTRAP" --topic "$topic" --command-property acks=$acks \
        --command-property enable.idempotence=$([ $acks = all ] && echo true || echo false)
  done
fi
seen=0
for partition in 0 1 2; do
  end=$(tool $tools.GetOffsetShell --bootstrap-server "$BOOTSTRAP" --topic "$topic" --partitions $partition | cut -d: -f3)
  [ "$end" = 0 ] && continue
  lines=$(tool $tools.consumer.ConsoleConsumer --bootstrap-server "$BOOTSTRAP" --topic "$topic" --partition $partition \
    --offset earliest --max-messages "$end" --timeout-ms 60000 | sort -u | wc -l)
  seen=$((seen + lines))
done
[ "$seen" = 1500 ] || { echo "$seen records, 1500 expected"; exit 1; }
