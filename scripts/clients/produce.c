/* produce: into one topic, as fast as librdkafka goes or as asked, and what it took as one line of JSON.
 *
 *   produce BOOTSTRAP TOPIC PARTITIONS RECORD_BYTES MAX_BYTES MAX_SECONDS [NAME=VALUE ...]
 *
 * Creates the topic; a NAME that begins with "topic:" is a setting of it, one that begins with "load:" is of
 * the load, any other one of the producer:
 *
 *   load:rate=BYTES      a second: each record has its moment, whatever happened to those before (an open loop)
 *   load:in_flight=N     records at most that are not acknowledged: with 1, one at a time
 *   load:skip=SECONDS    of records whose moment is that early no latency is told
 *   load:stamp=1         with a rate: each value begins with its moment, for "consume" to tell what it took to get there
 *   load:create=0        the topic is there already
 *
 * With a rate or a bound of those in flight latencies are told, in milliseconds: from that moment, or from the sending, to the
 * delivery report. SIGTERM ends the load as its time would. Values are random, so that nothing on the way can make them smaller. Records go to one partition until about a batch is full, then
 * to the next, as producers without keys do. The clock runs from the first record to the last acknowledgement. A record
 * that failed makes the run a failure: a figure with holes in it is none.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define PAYLOADS 64 /* different values, sent in turn */
#define CHUNK 256   /* records handed over at once */

static int64_t delivered, failed, timed;
static double counted_from; /* the first moment whose latency is told */
static volatile sig_atomic_t stopped;
static double *sent_at;     /* of records in flight, by index modulo in_flight */
static float *latencies_ms; /* of delivered records */
static int64_t latency_room;
static rd_kafka_resp_err_t last_error;

static void die(const char *what, const char *why) {
  fprintf(stderr, "produce: %s: %s\n", what, why);
  exit(1);
}

static double now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return at.tv_sec + at.tv_nsec / 1e9;
}

static double cpu(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque) {
  (void)rk;
  (void)opaque;
  if (message->err) {
    failed++;
    last_error = message->err;
  } else {
    const double *at = message->_private;
    if (at && *at >= counted_from && timed < latency_room)
      latencies_ms[timed++] = (float)((now() - *at) * 1e3);
    delivered++;
  }
}

static void on_signal(int number) {
  (void)number;
  stopped = 1;
}

static int by_size(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

static void create_topic(rd_kafka_t *rk, const char *name, int partitions, char **settings, int count) {
  char error[512];
  rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(name, partitions, 1, error, sizeof error);
  if (!topic)
    die(name, error);
  for (int i = 0; i < count; i++) {
    if (strncmp(settings[i], "topic:", 6) != 0)
      continue;
    char *value = strchr(settings[i], '=');
    *value = 0;
    rd_kafka_NewTopic_set_config(topic, settings[i] + 6, value + 1);
    *value = '=';
  }
  rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
  rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
  rd_kafka_AdminOptions_set_operation_timeout(options, 30000, error, sizeof error);
  rd_kafka_CreateTopics(rk, &topic, 1, options, queue);
  rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 60000);
  if (!event || rd_kafka_event_error(event))
    die(name, event ? rd_kafka_event_error_string(event) : "its creation was not answered");
  size_t results;
  const rd_kafka_topic_result_t **all =
      rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &results);
  if (results != 1 || rd_kafka_topic_result_error(all[0]))
    die(name, results == 1 ? rd_kafka_topic_result_error_string(all[0]) : "its creation was not answered");
  rd_kafka_event_destroy(event);
  rd_kafka_AdminOptions_destroy(options);
  rd_kafka_queue_destroy(queue);
  rd_kafka_NewTopic_destroy(topic);
}

static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint64_t random_next(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

int main(int argc, char **argv) {
  if (argc < 7) {
    fprintf(stderr, "usage: produce BOOTSTRAP TOPIC PARTITIONS RECORD_BYTES MAX_BYTES MAX_SECONDS [NAME=VALUE ...]\n");
    return 2;
  }
  const char *topic_name = argv[2];
  int partitions = atoi(argv[3]);
  size_t record_bytes = strtoul(argv[4], NULL, 10);
  int64_t max_records = strtoll(argv[5], NULL, 10) / (int64_t)record_bytes;
  double max_seconds = atof(argv[6]);
  int64_t batch_bytes = 1000000, in_flight = 0;
  double rate = 0, skip = 0;
  int stamp = 0, create = 1;
  char error[512];

  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
  if (rd_kafka_conf_set(conf, "bootstrap.servers", argv[1], error, sizeof error) != RD_KAFKA_CONF_OK)
    die("bootstrap.servers", error);
  for (int i = 7; i < argc; i++) {
    char *value = strchr(argv[i], '=');
    if (!value)
      die(argv[i], "is not NAME=VALUE");
    if (strncmp(argv[i], "topic:", 6) == 0)
      continue;
    if (strncmp(argv[i], "load:rate=", 10) == 0) {
      rate = atof(value + 1);
      continue;
    }
    if (strncmp(argv[i], "load:in_flight=", 15) == 0) {
      in_flight = strtoll(value + 1, NULL, 10);
      continue;
    }
    if (strncmp(argv[i], "load:skip=", 10) == 0) {
      skip = atof(value + 1);
      continue;
    }
    if (strncmp(argv[i], "load:stamp=", 11) == 0) {
      stamp = atoi(value + 1);
      continue;
    }
    if (strncmp(argv[i], "load:create=", 12) == 0) {
      create = atoi(value + 1);
      continue;
    }
    *value = 0;
    if (rd_kafka_conf_set(conf, argv[i], value + 1, error, sizeof error) != RD_KAFKA_CONF_OK)
      die(argv[i], error);
    if (strcmp(argv[i], "batch.size") == 0)
      batch_bytes = strtoll(value + 1, NULL, 10);
    *value = '=';
  }
  rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof error);
  if (!rk)
    die("producer", error);
  if (stamp && (rate <= 0 || record_bytes < sizeof(int64_t)))
    die("load:stamp", "needs load:rate, and values of at least eight bytes");
  if (create)
    create_topic(rk, topic_name, partitions, argv + 7, argc - 7);
  rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, topic_name, NULL);
  if (!topic)
    die(topic_name, rd_kafka_err2str(rd_kafka_last_error()));
  /* Every partition has its leader before the clock starts. */
  const rd_kafka_metadata_t *metadata;
  for (double until = now() + 30;;) {
    int led = 0;
    if (rd_kafka_metadata(rk, 0, topic, &metadata, 5000) == RD_KAFKA_RESP_ERR_NO_ERROR) {
      for (int i = 0; metadata->topic_cnt == 1 && i < metadata->topics[0].partition_cnt; i++)
        led += metadata->topics[0].partitions[i].leader >= 0 && !metadata->topics[0].partitions[i].err;
      rd_kafka_metadata_destroy(metadata);
    }
    if (led == partitions)
      break;
    if (now() > until)
      die(topic_name, "not every partition has a leader");
    struct timespec pause = {0, 20000000};
    nanosleep(&pause, NULL);
  }

  /* Values that differ by their moment have memory of their own until they are copied. */
  int payload_count = stamp ? CHUNK : PAYLOADS;
  size_t payload_bytes = record_bytes * (size_t)payload_count;
  unsigned char *payloads = malloc(payload_bytes + 8);
  if (!payloads)
    die("values", "no memory");
  for (size_t i = 0; i < payload_bytes; i += 8) {
    uint64_t word = random_next();
    memcpy(payloads + i, &word, 8);
  }
  int64_t a_batch = batch_bytes / (int64_t)(record_bytes + 40);
  a_batch = a_batch < 1 ? 1 : a_batch;

  if (rate > 0 || in_flight > 0) {
    latency_room = max_records;
    latencies_ms = malloc(sizeof *latencies_ms * (size_t)max_records);
    sent_at = malloc(sizeof *sent_at * (size_t)(rate > 0 ? max_records : in_flight));
    if (!latencies_ms || !sent_at)
      die("latencies", "no memory");
  }

  rd_kafka_message_t chunk[CHUNK];
  int64_t sent = 0, in_batch = 0;
  int partition = 0;
  char latencies[512] = "";
  double cpu_before = cpu(), started = now(), until = started + max_seconds;
  counted_from = started + skip;
  signal(SIGTERM, on_signal);
  while (sent < max_records && now() < until && !stopped) {
    int64_t wanted = a_batch - in_batch;
    if (rate > 0) {
      int64_t due = (int64_t)((now() - started) * rate / (double)record_bytes) + 1 - sent;
      wanted = wanted < due ? wanted : due;
    }
    if (in_flight > 0 && wanted > in_flight - (sent - delivered - failed))
      wanted = in_flight - (sent - delivered - failed);
    if (wanted <= 0) {
      if (rate > 0) {
        struct timespec pause = {0, 100000};
        nanosleep(&pause, NULL);
      }
      rd_kafka_poll(rk, rate > 0 ? 0 : 100);
      continue;
    }
    int count = (int)(wanted < CHUNK ? wanted : CHUNK);
    for (int i = 0; i < count; i++) {
      memset(&chunk[i], 0, sizeof chunk[i]);
      if (rate > 0) {
        sent_at[sent + i] = started + (double)(sent + i) * (double)record_bytes / rate;
        chunk[i]._private = &sent_at[sent + i];
      } else if (in_flight > 0) {
        sent_at[(sent + i) % in_flight] = now();
        chunk[i]._private = &sent_at[(sent + i) % in_flight];
      }
      chunk[i].payload = payloads + (size_t)((sent + i) % payload_count) * record_bytes;
      if (stamp) {
        int64_t moment_ns = (int64_t)(sent_at[sent + i] * 1e9);
        memcpy(chunk[i].payload, &moment_ns, sizeof moment_ns);
      }
      chunk[i].len = record_bytes;
    }
    int taken = rd_kafka_produce_batch(topic, partition, RD_KAFKA_MSG_F_COPY, chunk, count);
    sent += taken;
    in_batch += taken;
    if (in_batch >= a_batch) {
      in_batch = 0;
      partition = (partition + 1) % partitions;
    }
    /* A full queue is waited for, not run into. */
    rd_kafka_poll(rk, taken < count ? 10 : 0);
  }
  for (double patience = now() + 120; delivered + failed < sent && now() < patience;) {
    rd_kafka_flush(rk, 1000);
    rd_kafka_poll(rk, 0);
  }
  double seconds = now() - started, used = cpu() - cpu_before;
  int64_t missing = sent - delivered;
  if (missing)
    fprintf(stderr, "produce: %" PRId64 " records were not delivered, the last: %s\n", missing, rd_kafka_err2str(last_error));
  if (timed > 0) {
    qsort(latencies_ms, (size_t)timed, sizeof *latencies_ms, by_size);
    char *out = latencies;
    const double parts[] = {0.5, 0.9, 0.99, 0.999, 1};
    const char *names[] = {"p50", "p90", "p99", "p99.9", "max"};
    for (int i = 0; i < 5; i++) {
      int64_t at = (int64_t)(parts[i] * (double)timed);
      out += sprintf(out, "%s\"%s\": %.4f", i ? ", " : ", \"latency_ms\": {", names[i],
                     (double)latencies_ms[at < timed ? at : timed - 1]);
    }
    strcpy(out, "}");
  }
  printf("{\"records\": %" PRId64 ", \"bytes\": %" PRId64 ", \"seconds\": %.6f, \"ended_at\": %.6f, \"client_cpu_seconds\": %.3f, \"librdkafka\": \"%s\"%s}\n",
         delivered, delivered * (int64_t)record_bytes, seconds, started + seconds, used, rd_kafka_version_str(), latencies);
  rd_kafka_topic_destroy(topic);
  rd_kafka_destroy(rk);
  return missing ? 1 : 0;
}
