//! A data directory that Apache Kafka left is taken over as it is. What is hostile in it is the fuzz target `kafka-dir`;
//! what Kafka itself wrote is `scripts/clients`.

use std::path::Path;

use crate::common::{DIR, append_one, open};
use highwater_io::{Io, fs, sim};
use highwater_model::batch::{self, BatchBuilder, NewRecord, ProducerStamp};
use highwater_model::compression::Compression;
use highwater_model::{LeaderEpoch, Offset, Timestamp};

async fn put(io: &Io, name: &str, bytes: Vec<u8>) {
    let path = Path::new(DIR).join(name);
    io.fs().create_dir_all_durable(path.parent().expect("below the directory")).await.expect("created");
    let file = io.fs().open(path, fs::OpenOptions::read_write().create()).await.expect("created");
    file.write_at(vec![bytes.into()], 0, fs::Durability::Plain).await.expect("written");
}

/// Batches of one record.
fn segment(offsets: std::ops::Range<i64>) -> Vec<u8> {
    let one = |offset| {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(&NewRecord { timestamp: Timestamp(7), value: Some(b"v"), ..NewRecord::default() });
        let mut bytes = builder.build(ProducerStamp::NONE).expect("a batch").to_vec();
        batch::stamp(&mut bytes, Offset(offset), LeaderEpoch(1));
        bytes
    };
    offsets.flat_map(one).collect()
}

/// A producer snapshot: version, checksum, count.
fn no_producers() -> Vec<u8> {
    let count = 0u32.to_be_bytes();
    [&1u16.to_be_bytes()[..], &crc32c::crc32c(&count).to_be_bytes(), &count].concat()
}

/// Kafka rolls before it appends, and may be stopped between the two; with a producer snapshot at the end, nothing before
/// it needs to be read. The log's end is the new segment's base then: were
/// it taken from the batches of that segment alone, the log would end where it starts, and its offsets be given again.
#[test]
fn log_whose_last_segment_is_empty_ends_at_that_segments_base() {
    for stop in ["clean", "unclean"] {
        sim::run(1, move |io| async move {
            put(&io, "meta.properties", b"version=1\ncluster.id=c\nnode.id=0\n".to_vec()).await;
            put(&io, "topic-0/partition.metadata", b"version: 0\ntopic_id: AQEBAQEBAQEBAQEBAQEBAQ".to_vec())
                .await;
            put(&io, "topic-0/00000000000000000000.log", segment(0..3)).await;
            put(&io, "topic-0/00000000000000000003.log", Vec::new()).await;
            put(&io, "topic-0/00000000000000000003.snapshot", no_producers()).await;
            if stop == "clean" {
                put(&io, ".kafka_cleanshutdown", Vec::new()).await;
            } else {
                put(&io, "recovery-point-offset-checkpoint", b"0\n1\ntopic 0 3\n".to_vec()).await;
            }
            let (_dir, logs, _) = open(&io).await;
            let partition = logs.partitions().into_iter().next().expect("taken over");
            let marks = partition.watermarks().get();
            assert_eq!((marks.log_start_offset, marks.log_end_offset), (Offset(0), Offset(3)), "{stop}");
            let appended = append_one(&partition, b"next").await;
            assert_eq!(appended.base_offset, Offset(3), "{stop}");
            appended.acknowledged().await.expect("durable");
            logs.close().await.expect("a clean stop");
        });
    }
}
