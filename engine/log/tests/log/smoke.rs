//! The shortest way through the log on the simulated disk, for a first look when something is broken.

use crate::common::{append_one, create, open, read_values};
use highwater_io::sim;

#[test]
fn records_survive_a_clean_stop_and_come_back_in_order() {
    for seed in 0..20 {
        sim::run(seed, |io| async move {
            let (dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            for n in 0..50u32 {
                append_one(&partition, format!("value {n}").as_bytes())
                    .await
                    .acknowledged()
                    .await
                    .expect("durable");
            }
            let marks = partition.watermarks().get();
            assert_eq!((marks.log_end_offset.0, marks.durable_offset.0), (50, 50));
            assert_eq!(read_values(&partition).await.len(), 50);
            logs.close().await.expect("a clean stop");
            dir.mark_clean().await.expect("marked");

            let (_dir, logs, report) = open(&io).await;
            assert!(report.was_clean && report.groups_replayed == 0, "{report:?}");
            let partition = logs.partitions().pop().expect("the partition is there");
            let values = read_values(&partition).await;
            assert_eq!(values.len(), 50);
            assert_eq!(values[49], b"value 49");
            append_one(&partition, b"one more").await.acknowledged().await.expect("durable");
            assert_eq!(read_values(&partition).await.len(), 51);
            logs.close().await.expect("a clean stop");
        });
    }
}
