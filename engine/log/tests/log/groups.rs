//! Group commit: how many flushes acks cost, counted at the journal.

use highwater_io::sim;
use highwater_log::JournalCounters;

use crate::common::{append_one, create, open};

fn since(before: JournalCounters, after: JournalCounters) -> (u64, u64) {
    (after.groups - before.groups, after.flushes - before.flushes)
}

#[test]
fn writer_that_is_alone_pays_one_flush_an_ack() {
    for seed in 0..10 {
        sim::run(seed, |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            // The first ever may find a checkpoint on its way.
            append_one(&partition, b"first").await.acknowledged().await.expect("durable");
            for n in 0..20u32 {
                let before = logs.journal_counters();
                append_one(&partition, &n.to_be_bytes()).await.acknowledged().await.expect("durable");
                assert_eq!(since(before, logs.journal_counters()), (1, 1), "append {n}");
            }
            logs.close().await.expect("a clean stop");
        });
    }
}

#[test]
fn writers_that_wait_together_share_a_flush() {
    const WRITERS: usize = 64;
    for seed in 0..10 {
        sim::run(seed, |io| async move {
            let (_dir, logs, _) = open(&io).await;
            let partition = create(&logs, 0).await;
            append_one(&partition, b"first").await.acknowledged().await.expect("durable");
            let before = logs.journal_counters();
            let mut appended = Vec::new();
            for n in 0..WRITERS {
                appended.push(append_one(&partition, &n.to_be_bytes()).await);
            }
            for ack in &appended {
                ack.acknowledged().await.expect("durable");
            }
            let (groups, flushes) = since(before, logs.journal_counters());
            // The first may leave alone; whoever came while it was on its way goes together.
            assert!(
                groups <= 4 && flushes <= groups,
                "{groups} groups, {flushes} flushes for {WRITERS} acks"
            );
            logs.close().await.expect("a clean stop");
        });
    }
}
