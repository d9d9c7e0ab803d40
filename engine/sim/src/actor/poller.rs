//! A consumer that follows every partition while the load goes on, and notes what it saw.

use std::time::Duration;

use highwater_checker::Nanos;
use highwater_io::Io;
use highwater_protocol::ErrorCode;

use super::reader::{fetch, values};
use super::{Stagehand, steady_topic};
use crate::books::{PollNote, Polled};
use crate::dice::Dice;
use crate::wire::{Connection, Gone};

const PAUSE_US: u64 = 10_000;
const MAX_BYTES: i32 = 16 << 10;

#[derive(Debug)]
struct Follow {
    name: String,
    topic: u32,
    partition: u32,
    /// `None` until it is known where the log begins.
    next: Option<i64>,
}

/// Polls until the end is asked for.
pub(crate) async fn poll(io: Io, hand: Stagehand) {
    let dice = Dice::new(hand.seed, 4);
    let mut follows: Vec<Follow> = (0..)
        .zip(&hand.scenario.partitions)
        .flat_map(|(topic, &partitions)| {
            (0..partitions).map(move |partition| Follow {
                name: steady_topic(topic as usize),
                topic,
                partition,
                next: Some(0),
            })
        })
        .collect();
    while !hand.is_closing() {
        let mut connection = Connection::open(&io, hand.address).await;
        while !hand.is_closing() {
            let index = usize::try_from(dice.below(follows.len() as u64)).expect("an index");
            if poll_one(&mut connection, &hand, &mut follows[index]).await.is_err() {
                break;
            }
            io.sleep(dice.micros(PAUSE_US)).await;
        }
        io.sleep(Duration::from_millis(1)).await;
    }
}

async fn poll_one(connection: &mut Connection, hand: &Stagehand, follow: &mut Follow) -> Result<(), Gone> {
    let Follow { name, topic, partition, next } = follow;
    let (topic, partition) = (*topic, *partition);
    let asked_at = hand.books.clock.now();
    let data = fetch(connection, name, partition, next.unwrap_or(0), MAX_BYTES).await?;
    let at = hand.books.clock.now();
    match ErrorCode(data.error_code) {
        code if code.is_none() => {}
        ErrorCode::OFFSET_OUT_OF_RANGE => {
            // Trimmed meanwhile, or the end was lost: begins again where the log does.
            *next = Some(data.log_start_offset.max(0));
            hand.books.note_poll(PollNote::Restarted { topic, partition });
            return Ok(());
        }
        // The topic is not there yet.
        _ => return Ok(()),
    }
    let end = data.high_watermark;
    hand.books.note_poll(PollNote::LogEnd { topic, partition, end, asked_at, at });
    note_records(hand, (topic, partition), next, data.records.as_deref().unwrap_or_default(), at);
    Ok(())
}

fn note_records(
    hand: &Stagehand,
    (topic, partition): (u32, u32),
    next: &mut Option<i64>,
    bytes: &[u8],
    at: Nanos,
) {
    let from = next.unwrap_or(0);
    let end = values(bytes, |offset, value| {
        if offset >= from {
            let value = highwater_checker::Identity::decode(value, hand.books.run);
            hand.books.note_poll(PollNote::Record(Polled { topic, partition, offset, value, at }));
        }
    });
    *next = Some(end.unwrap_or(from).max(from));
}
