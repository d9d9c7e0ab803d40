// kafkajs: stops at old versions of the protocol (Produce 7, Fetch 11, Metadata 6), whose encodings are not flexible. It has no
// consumer without a group, which this broker does not coordinate yet: it produces and asks for offsets.
const { Kafka, logLevel } = require("kafkajs");

const topic = "kafkajs-topic";
const kafka = new Kafka({ brokers: [process.env.BOOTSTRAP], logLevel: logLevel.ERROR });

async function main() {
  const admin = kafka.admin();
  await admin.connect();
  if (process.argv[2] === "produce") {
    await admin.createTopics({ topics: [{ topic, numPartitions: 2, replicationFactor: 1 }] });
    for (const acks of [0, 1, -1]) {
      const producer = kafka.producer();
      await producer.connect();
      const messages = Array.from({ length: 500 }, (_, n) => ({ key: `${n}`, value: `${acks}:${n}` }));
      await producer.send({ topic, acks, messages });
      await producer.disconnect();
    }
  }
  for (let attempt = 0; ; attempt++) {
    const offsets = await admin.fetchTopicOffsets(topic);
    const records = offsets.reduce((sum, o) => sum + Number(o.high) - Number(o.low), 0);
    if (records === 1500) break;
    if (attempt === 50) throw new Error(`${records} records, 1500 expected`);
    await new Promise((resolve) => setTimeout(resolve, 100)); // acks=0 is answered by nobody
  }
  await admin.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
