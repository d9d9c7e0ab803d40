"""confluent-kafka: the newest librdkafka."""

import os
import sys

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

TOPIC = "confluent-topic"
PARTITIONS = 4
RECORDS = 2_000
conf = {"bootstrap.servers": os.environ["BOOTSTRAP"]}


def produce():
    admin = AdminClient(conf)
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(30)
    for settings in ({"acks": "0"}, {"acks": "1"}, {"acks": "all", "enable.idempotence": True}):
        failures = []
        producer = Producer({**conf, **settings, "linger.ms": 5})
        for number in range(RECORDS):
            producer.produce(
                TOPIC,
                key=str(number),
                value=f"{settings['acks']}:{number}",
                headers={"h": "v"},
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )
            producer.poll(0)
        assert producer.flush(60) == 0, "not everything was delivered"
        assert not failures, failures[0]
    resource = ConfigResource(ConfigResource.Type.TOPIC, TOPIC)
    configs = admin.describe_configs([resource])[resource].result(30)
    assert configs["flush.messages"].value == "1", configs["flush.messages"].value


def consume():
    consumer = Consumer({**conf, "group.id": "unused", "auto.offset.reset": "earliest", "enable.auto.commit": False})
    ends = {p: consumer.get_watermark_offsets(TopicPartition(TOPIC, p), timeout=30) for p in range(PARTITIONS)}
    consumer.assign([TopicPartition(TOPIC, p, low) for p, (low, _) in ends.items()])
    wanted = sum(high - low for low, high in ends.values())
    seen = set()
    while wanted:
        message = consumer.poll(30)
        assert message is not None, f"{wanted} records are missing"
        assert message.error() is None, message.error()
        assert message.headers() == [("h", b"v")], message.headers()
        seen.add(message.value())
        wanted -= 1
    consumer.close()
    assert len(seen) == 3 * RECORDS, len(seen)


if sys.argv[1] == "produce":
    produce()
consume()
