/* consume: every partition of a topic from its start, as fast as librdkafka goes, and what it took as one line of JSON.
 *
 *   consume BOOTSTRAP TOPIC PARTITIONS MAX_BYTES MAX_SECONDS [NAME=VALUE ...]
 *
 * Whoever has reached the end of a partition begins it again, until so many bytes of values were read: a topic that is
 * small enough stays in memory. With "load:once=1" each partition is read once. A NAME that begins with "load:" is of the
 * load, any other one a setting of the consumer. The clock runs from the first message to the last. An error makes the run
 * a failure.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define CHUNK 4096 /* messages taken at once */

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

int main(int argc, char **argv) {
  if (argc < 6) {
    fprintf(stderr, "usage: consume BOOTSTRAP TOPIC PARTITIONS MAX_BYTES MAX_SECONDS [NAME=VALUE ...]\n");
    return 2;
  }
  int partitions = atoi(argv[3]), once = 0;
  int64_t max_bytes = strtoll(argv[4], NULL, 10);
  double max_seconds = atof(argv[5]);
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
  while (!stop) {
    ssize_t count = rd_kafka_consume_batch_queue(queue, 1000, messages, CHUNK);
    if (count < 0)
      die("consuming", rd_kafka_err2str(rd_kafka_last_error()));
    if (count > 0 && started == 0) {
      started = now();
      cpu_before = cpu();
      until = started + max_seconds;
    }
    for (ssize_t i = 0; i < count; i++) {
      rd_kafka_message_t *message = messages[i];
      if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        bytes += (int64_t)message->len;
        records++;
      } else if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        ended++;
        if (!once && rd_kafka_seek(topic, message->partition, RD_KAFKA_OFFSET_BEGINNING, 0))
          die("going back to the start", rd_kafka_err2str(rd_kafka_last_error()));
      } else {
        die("consuming", rd_kafka_message_errstr(message));
      }
      rd_kafka_message_destroy(message);
    }
    if (count > 0)
      last = now();
    stop = bytes >= max_bytes || now() > until || (once && ended >= partitions);
  }
  double used = cpu() - cpu_before;
  if (bytes == 0)
    die(argv[2], "nothing was read");
  printf("{\"records\": %" PRId64 ", \"bytes\": %" PRId64 ", \"seconds\": %.6f, \"client_cpu_seconds\": %.3f, \"librdkafka\": \"%s\"}\n",
         records, bytes, last - started, used, rd_kafka_version_str());
  fflush(stdout);
  /* Stopping each partition in turn takes long, and there is nothing to save. */
  _exit(0);
}
