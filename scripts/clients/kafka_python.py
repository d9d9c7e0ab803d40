"""kafka-python: a client of its own, with the newest versions of the protocol."""

import os
import sys

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

TOPIC = "kafka-python-topic"
RECORDS = 1_000
bootstrap = os.environ["BOOTSTRAP"]

if sys.argv[1] == "produce":
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(TOPIC, num_partitions=2, replication_factor=1)])
    admin.close()
    for acks in (0, 1, "all"):
        producer = KafkaProducer(bootstrap_servers=bootstrap, acks=acks, enable_idempotence=acks == "all", linger_ms=5)
        futures = [
            producer.send(TOPIC, key=str(n).encode(), value=f"{acks}:{n}".encode(), partition=n % 2) for n in range(RECORDS)
        ]
        producer.flush(60)
        assert all(future.succeeded() for future in futures)
        producer.close()

consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=30_000)
partitions = [TopicPartition(TOPIC, p) for p in (0, 1)]
consumer.assign(partitions)
consumer.seek_to_beginning()
wanted = sum(consumer.end_offsets(partitions).values()) - sum(consumer.beginning_offsets(partitions).values())
seen = set()
for count, message in enumerate(consumer, start=1):
    seen.add(message.value)
    if count == wanted:
        break
consumer.close()
assert len(seen) == 3 * RECORDS, f"{len(seen)} of {3 * RECORDS}"
