/* consume: every partition of a topic from its start, as fast as librdkafka goes, and what it took as one line of JSON.
 *
 *   consume BOOTSTRAP TOPIC PARTITIONS MAX_BYTES MAX_SECONDS [NAME=VALUE ...]
 *
 * Whoever has reached the end of a partition begins it again, until so many bytes of values were read: a topic that is
 * small enough stays in memory. A NAME that begins with "load:" is of the load, any other one a setting of the consumer:
 *
 *   load:once=1        each partition is read once
 *   load:tail=1        follows what "produce" writes with load:stamp=1, and tells latencies in milliseconds: from the moment
 *                      in each value, on the same machine, until the application has it
 *   load:skip=SECONDS  of records whose moment is that early, counted from the first one's, no latency is told
 *
 * SIGTERM ends it: at once, or when nothing more comes for a second if it follows, since those that come late are what
 * latencies are about. The clock runs from the first message to the last. An error makes the run a failure.
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
#include <unistd.h>

#define CHUNK 4096 /* messages taken at once */

static float *latencies_ms;
static int64_t timed, latency_room;
static volatile sig_atomic_t stopped;

static void die(const char *what, const char *why) {
  fprintf(stderr, "consume: %s: %s\n", what, why);
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

static void on_signal(int number) {
  (void)number;
  stopped = 1;
}

static int by_size(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

static void note_latency(const rd_kafka_message_t *message, double skip) {
  static int64_t first_ns;
  int64_t moment_ns;
  if (message->len < sizeof moment_ns)
    die("a value", "has no moment");
  memcpy(&moment_ns, message->payload, sizeof moment_ns);
  first_ns = first_ns ? first_ns : moment_ns;
  if ((double)(moment_ns - first_ns) < skip * 1e9)
    return;
  if (timed == latency_room) {
    latency_room = latency_room ? 2 * latency_room : 1 << 20;
    latencies_ms = realloc(latencies_ms, sizeof *latencies_ms * (size_t)latency_room);
    if (!latencies_ms)
      die("latencies", "no memory");
  }
  latencies_ms[timed++] = (float)((now() - (double)moment_ns / 1e9) * 1e3);
}

/* What "produce" tells of its latencies. */
static void tell_latencies(char *out) {
  const double parts[] = {0.5, 0.9, 0.99, 0.999, 1};
  const char *names[] = {"p50", "p90", "p99", "p99.9", "max"};
  qsort(latencies_ms, (size_t)timed, sizeof *latencies_ms, by_size);
  for (int i = 0; i < 5; i++) {
    int64_t at = (int64_t)(parts[i] * (double)timed);
    out += sprintf(out, "%s\"%s\": %.4f", i ? ", " : ", \"latency_ms\": {", names[i],
                   (double)latencies_ms[at < timed ? at : timed - 1]);
  }
  strcpy(out, "}");
}

int main(int argc, char **argv) {
  if (argc < 6) {
    fprintf(stderr, "usage: consume BOOTSTRAP TOPIC PARTITIONS MAX_BYTES MAX_SECONDS [NAME=VALUE ...]\n");
    return 2;
  }
  int partitions = atoi(argv[3]), once = 0, tail = 0;
  int64_t max_bytes = strtoll(argv[4], NULL, 10);
  double max_seconds = atof(argv[5]), skip = 0;
  char error[512];

  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  const char *own[][2] = {{"bootstrap.servers", argv[1]}, {"enable.partition.eof", "true"}, {"group.id", "consume"},
                          {"enable.auto.commit", "false"}};
  for (size_t i = 0; i < sizeof own / sizeof *own; i++)
    if (rd_kafka_conf_set(conf, own[i][0], own[i][1], error, sizeof error) != RD_KAFKA_CONF_OK)
      die(own[i][0], error);
  for (int i = 6; i < argc; i++) {
    char *value = strchr(argv[i], '=');
    if (!value)
      die(argv[i], "is not NAME=VALUE");
    if (strncmp(argv[i], "load:once=", 10) == 0) {
      once = atoi(value + 1);
      continue;
    }
    if (strncmp(argv[i], "load:tail=", 10) == 0) {
      tail = atoi(value + 1);
      continue;
    }
    if (strncmp(argv[i], "load:skip=", 10) == 0) {
      skip = atof(value + 1);
      continue;
    }
    *value = 0;
    if (rd_kafka_conf_set(conf, argv[i], value + 1, error, sizeof error) != RD_KAFKA_CONF_OK)
      die(argv[i], error);
    *value = '=';
  }
  rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof error);
  if (!rk)
    die("consumer", error);
  rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, argv[2], NULL);
  if (!topic)
    die(argv[2], rd_kafka_err2str(rd_kafka_last_error()));
  rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
  for (int i = 0; i < partitions; i++)
    if (rd_kafka_consume_start_queue(topic, i, RD_KAFKA_OFFSET_BEGINNING, queue))
      die("a partition", rd_kafka_err2str(rd_kafka_last_error()));

  static rd_kafka_message_t *messages[CHUNK];
  int64_t bytes = 0, records = 0;
  int ended = 0, stop = 0;
  double cpu_before = 0, started = 0, last = 0, until = now() + 60;
  signal(SIGTERM, on_signal);
  while (!stop) {
    /* A batch that does not fill waits for as long as it may, the last one while the clock runs: that is kept short, and
     * who follows takes each message as it comes. */
    ssize_t count = tail ? (messages[0] = rd_kafka_consume_queue(queue, 100)) != NULL
                         : rd_kafka_consume_batch_queue(queue, 10, messages, CHUNK);
    if (count < 0)
      die("consuming", rd_kafka_err2str(rd_kafka_last_error()));
    if (count > 0 && started == 0 && !(tail && messages[0]->err)) {
      started = now();
      cpu_before = cpu();
      until = started + max_seconds;
    }
    /* What the first batch brought was there before the clock ran. */
    int is_first = records == 0;
    int64_t before = records;
    for (ssize_t i = 0; i < count; i++) {
      rd_kafka_message_t *message = messages[i];
      if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        if (!is_first)
          bytes += (int64_t)message->len;
        records++;
        if (tail)
          note_latency(message, skip);
      } else if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        ended++;
        if (!once && !tail && rd_kafka_seek(topic, message->partition, RD_KAFKA_OFFSET_BEGINNING, 0))
          die("going back to the start", rd_kafka_err2str(rd_kafka_last_error()));
      } else {
        die("consuming", rd_kafka_message_errstr(message));
      }
      rd_kafka_message_destroy(message);
    }
    /* What tells the end of a partition comes when the broker's wait for more is over: it is no record. */
    if (records > before)
      last = now();
    stop = bytes >= max_bytes || now() > until || (once && ended >= partitions) || (stopped && (!tail || now() > last + 1));
  }
  double used = cpu() - cpu_before;
  if (records == 0)
    die(argv[2], "nothing was read");
  char latencies[512] = "";
  if (timed > 0)
    tell_latencies(latencies);
  printf("{\"records\": %" PRId64 ", \"bytes\": %" PRId64 ", \"seconds\": %.6f, \"client_cpu_seconds\": %.3f, \"librdkafka\": \"%s\"%s}\n",
         records, bytes, last - started, used, rd_kafka_version_str(), latencies);
  fflush(stdout);
  /* Stopping each partition in turn takes long, and there is nothing to save. */
  _exit(0);
}
