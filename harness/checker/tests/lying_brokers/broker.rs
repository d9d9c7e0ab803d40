//! A broker in memory: page cache and medium, flush policy, idempotence. Honest, or with one lie.

use highwater_checker::{Flush, RunId};
use std::collections::BTreeMap;

/// SplitMix64: the test prints its seed, and the seed is all there is.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    pub(crate) fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// What a broker does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    /// Acknowledges, and writes a few appends later.
    AckBeforeWrite,
    /// Stops flushing half way, and goes on acknowledging.
    SkippedFlush,
    /// Every seventh flush reports success and does nothing.
    DroppedFlush,
    /// Recovery cuts off what was durable.
    TruncatedRecovery,
    /// A retry is appended again.
    RetryStoredTwice,
    /// A retry that the producer never made is appended.
    StoredTwice,
    /// Two appends are acknowledged at one offset.
    OffsetGivenTwice,
    /// An append is acknowledged at an offset next to its own.
    OffsetOff,
    /// A byte changes on its way to the log.
    AlteredRecord,
    /// The end of a value is missing.
    ShortRecord,
    /// An append lands before the one that its producer sent first.
    Reordered,
    /// A later append is given an offset that was left free below earlier ones.
    OffsetFromThePast,
    /// MESSAGE_TOO_LARGE, and appended.
    FailedButStored,
    /// A record of another run appears.
    ForeignRecord,
    /// A record appears that no producer has made yet.
    FutureRecord,
    /// An append goes to the wrong partition.
    WrongPartition,
    /// Consumers see what is not durable yet.
    ServedBeforeDurable,
    /// A fetch repeats what it gave before.
    RepeatedFetch,
    /// A fetch leaves something out.
    SkippingFetch,
    /// A replica holds another record at an offset.
    DivergentReplica,
    /// A replica ends early.
    ShortReplica,
    /// The reported log end goes back.
    LogEndBack,
    /// The committed offset goes back.
    CommittedBack,
    /// Stands still for long.
    Stall,
}

#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) offset: i64,
    pub(crate) value: Vec<u8>,
    durable: bool,
    /// No flush will ever reach it.
    doomed: bool,
}

#[derive(Default)]
struct Log {
    entries: Vec<Entry>,
    next_offset: i64,
    unflushed: u64,
    flushed_at: u64,
    /// Base offset of each batch, for idempotence.
    batches: BTreeMap<(u32, u64), i64>,
    /// An offset left free, and since which append.
    free_offset: Option<(i64, u64)>,
}

struct Waiting {
    partition: usize,
    values: Vec<Vec<u8>>,
}

pub(crate) struct Append {
    pub(crate) partition: usize,
    pub(crate) producer: u32,
    pub(crate) first_sequence: u64,
    pub(crate) values: Vec<Vec<u8>>,
}

pub(crate) struct Broker {
    lie: Lie,
    flush: Flush,
    idempotence: bool,
    logs: Vec<Log>,
    appends: u64,
    fetches: u64,
    questions: u64,
    unwritten: Vec<Waiting>,
    held_back: Option<Append>,
    pub(crate) rng: Rng,
}

const FEW: usize = 12;

impl Broker {
    pub(crate) fn new(lie: Lie, flush: Flush, idempotence: bool, partitions: usize, seed: u64) -> Self {
        let logs = (0..partitions).map(|_| Log::default()).collect();
        let (unwritten, held_back) = (Vec::new(), None);
        let rng = Rng(seed ^ 0xB0B);
        Self {
            lie,
            flush,
            idempotence,
            logs,
            appends: 0,
            fetches: 0,
            questions: 0,
            unwritten,
            held_back,
            rng,
        }
    }

    /// Answers with a base offset or an error code, or not at all.
    pub(crate) fn produce(&mut self, now: u64, append: Append) -> Option<Result<i64, i16>> {
        self.appends += 1;
        let seen =
            self.logs[append.partition].batches.get(&(append.producer, append.first_sequence)).copied();
        if let Some(base) = seen.filter(|_| self.idempotence && self.lie != Lie::RetryStoredTwice) {
            return Some(Ok(base));
        }
        self.append_with_lie(now, append)
    }

    fn append_with_lie(&mut self, now: u64, mut append: Append) -> Option<Result<i64, i16>> {
        let often = self.rng.one_in(6);
        let partition = append.partition;
        match self.lie {
            Lie::AckBeforeWrite => return Some(Ok(self.promise(append))),
            Lie::AlteredRecord if often => append.values[0][20] ^= 1,
            Lie::ShortRecord if often => drop(append.values[0].pop()),
            Lie::WrongPartition if often => append.partition = (partition + 1) % self.logs.len(),
            Lie::FailedButStored if often => {
                self.append(now, append);
                return Some(Err(10));
            }
            Lie::ForeignRecord if often => {
                self.insert_copy(now, &append, |identity| identity.run = RunId(666));
            }
            Lie::FutureRecord if often => {
                self.insert_copy(now, &append, |identity| identity.sequence += 1 << 32);
            }
            Lie::StoredTwice if often => {
                let again = Append { values: append.values.clone(), ..append };
                self.append(now, again);
            }
            Lie::Reordered => return Some(self.append_out_of_order(now, append)),
            Lie::OffsetFromThePast => return Some(Ok(self.append_to_the_past(now, append))),
            Lie::OffsetGivenTwice if often && self.logs[partition].next_offset > 0 => {
                let length = append.values.len() as i64;
                return Some(Ok(self.append(now, append) - length.min(2)));
            }
            Lie::OffsetOff if often => return Some(Ok(self.append(now, append) + 1_000_000)),
            Lie::ServedBeforeDurable if often => {
                self.write(partition, append.values, true);
                return None;
            }
            _ => {}
        }
        Some(Ok(self.append(now, append)))
    }

    fn append(&mut self, now: u64, append: Append) -> i64 {
        let Append { partition, producer, first_sequence, values } = append;
        let count = values.len() as u64;
        let base = self.write(partition, values, false);
        let log = &mut self.logs[partition];
        log.batches.insert((producer, first_sequence), base);
        log.unflushed += count;
        if self.flush.messages.is_some_and(|bound| self.logs[partition].unflushed >= bound) {
            self.flush(now, partition);
        }
        base
    }

    fn write(&mut self, partition: usize, values: Vec<Vec<u8>>, doomed: bool) -> i64 {
        let log = &mut self.logs[partition];
        let base = log.next_offset;
        log.next_offset += values.len() as i64;
        let entry = |(offset, value)| Entry { offset, value, durable: false, doomed };
        log.entries.extend((base..).zip(values).map(entry));
        base
    }

    fn flush(&mut self, now: u64, partition: usize) {
        let log = &mut self.logs[partition];
        (log.unflushed, log.flushed_at) = (0, now);
        if self.lie == Lie::SkippedFlush && self.appends > 60 {
            return;
        }
        let dropped = self.lie == Lie::DroppedFlush && self.appends.is_multiple_of(7);
        for entry in log.entries.iter_mut().filter(|entry| !entry.durable) {
            entry.doomed |= dropped;
            entry.durable = !entry.doomed;
        }
    }

    /// Time passes: the flush timer.
    pub(crate) fn tick(&mut self, now: u64) {
        let Some(ms) = self.flush.ms else { return };
        for partition in 0..self.logs.len() {
            if now - self.logs[partition].flushed_at >= ms * 1_000_000 {
                self.flush(now, partition);
            }
        }
    }

    fn promise(&mut self, append: Append) -> i64 {
        let log = &mut self.logs[append.partition];
        let base = log.next_offset;
        log.next_offset += append.values.len() as i64;
        log.batches.insert((append.producer, append.first_sequence), base);
        self.unwritten.push(Waiting { partition: append.partition, values: append.values });
        if self.unwritten.len() > FEW {
            let Waiting { partition, values } = self.unwritten.remove(0);
            self.write_promised(partition, values);
        }
        base
    }

    fn write_promised(&mut self, partition: usize, values: Vec<Vec<u8>>) {
        let log = &mut self.logs[partition];
        let base = log.entries.last().map_or(0, |entry| entry.offset + 1);
        let entry = |(offset, value)| Entry { offset, value, durable: true, doomed: false };
        log.entries.extend((base..).zip(values).map(entry));
    }

    /// Holds an append back until the same producer's next one, and then stores them the wrong way round.
    fn append_out_of_order(&mut self, now: u64, append: Append) -> Result<i64, i16> {
        let same = |held: &Append| (held.producer, held.partition) == (append.producer, append.partition);
        if self.held_back.as_ref().is_some_and(same) {
            let held = self.held_back.take().expect("it was just seen");
            let base = self.append(now, append);
            self.append(now, held);
            return Ok(base);
        }
        if self.held_back.is_none() && self.rng.one_in(4) {
            self.held_back = Some(append);
            return Err(7);
        }
        Ok(self.append(now, append))
    }

    fn append_to_the_past(&mut self, now: u64, mut append: Append) -> i64 {
        let appends = self.appends;
        let log = &mut self.logs[append.partition];
        let fits = |(_, since): &mut (i64, u64)| append.values.len() == 1 && appends - *since > 30;
        if let Some((offset, _)) = log.free_offset.take_if(fits) {
            let value = append.values.remove(0);
            let place = log.entries.partition_point(|entry| entry.offset < offset);
            log.entries.insert(place, Entry { offset, value, durable: true, doomed: false });
            log.batches.insert((append.producer, append.first_sequence), offset);
            return offset;
        }
        if log.free_offset.is_none() && self.rng.one_in(5) {
            log.free_offset = Some((log.next_offset, appends));
            log.next_offset += 1;
        }
        self.append(now, append)
    }

    fn insert_copy(
        &mut self,
        now: u64,
        append: &Append,
        change: impl FnOnce(&mut highwater_checker::Identity),
    ) {
        let mut value = append.values[0].clone();
        let run = RunId(u64::from_be_bytes(value[8..16].try_into().expect("8 bytes")));
        let mut identity = highwater_checker::Identity::decode(&value, run).expect("it was just encoded");
        change(&mut identity);
        identity.encode(&mut value, highwater_checker::Filler::INCOMPRESSIBLE).expect("same length");
        let producer = u32::MAX;
        self.append(
            now,
            Append {
                partition: append.partition,
                producer,
                first_sequence: self.appends,
                values: vec![value],
            },
        );
    }

    /// SIGKILL: what was not even written is gone.
    pub(crate) fn kill(&mut self) {
        self.unwritten.clear();
        self.held_back = None;
        self.recover();
    }

    /// Everything that was acknowledged and not written is.
    pub(crate) fn catch_up(&mut self) {
        for Waiting { partition, values } in std::mem::take(&mut self.unwritten) {
            self.write_promised(partition, values);
        }
    }

    /// The page cache is gone.
    pub(crate) fn cut_power(&mut self) {
        self.unwritten.clear();
        self.held_back = None;
        self.logs.iter_mut().for_each(|log| log.entries.retain(|entry| entry.durable));
        self.recover();
    }

    fn recover(&mut self) {
        for log in &mut self.logs {
            if self.lie == Lie::TruncatedRecovery {
                log.entries.truncate(log.entries.len().saturating_sub(20));
            }
            log.next_offset = log.entries.last().map_or(0, |entry| entry.offset + 1);
            let end = log.next_offset;
            log.batches.retain(|_, base| *base < end);
            (log.unflushed, log.free_offset) = (0, None);
        }
    }

    pub(crate) fn fetch(&mut self, partition: usize, from: i64) -> Vec<Entry> {
        self.fetches += 1;
        let mut from = from;
        let entries = &self.logs[partition].entries;
        match self.lie {
            Lie::RepeatedFetch if self.fetches.is_multiple_of(9) => from = (from - 3).max(0),
            Lie::SkippingFetch if self.fetches.is_multiple_of(9) => from += 2,
            _ => {}
        }
        entries.iter().filter(|entry| entry.offset >= from).take(10).cloned().collect()
    }

    pub(crate) fn log_end(&mut self, partition: usize) -> i64 {
        self.questions += 1;
        let end = self.logs[partition].entries.last().map_or(0, |entry| entry.offset + 1);
        if self.lie == Lie::LogEndBack && self.questions.is_multiple_of(3) { end / 2 } else { end }
    }

    /// What an offset commit of `offset` is later told to have been.
    pub(crate) fn committed(&mut self, offset: i64) -> i64 {
        self.questions += 1;
        if self.lie == Lie::CommittedBack && self.questions.is_multiple_of(3) { offset / 2 } else { offset }
    }

    /// How long the next answer takes, beyond the usual.
    pub(crate) fn stall(&mut self) -> u64 {
        if self.lie == Lie::Stall && self.appends == 50 { 5_000_000_000 } else { 0 }
    }

    /// Everything in a partition, from the leader or from the other replica.
    pub(crate) fn read_all(&self, partition: usize, from_replica: bool) -> (i64, Vec<Entry>) {
        let log = &self.logs[partition];
        let mut entries = log.entries.clone();
        if from_replica && self.lie == Lie::DivergentReplica && entries.len() > 4 {
            let (one, other) = (entries[1].value.clone(), entries[3].value.clone());
            (entries[1].value, entries[3].value) = (other, one);
        }
        if from_replica && self.lie == Lie::ShortReplica {
            entries.truncate(entries.len() / 2);
        }
        (log.next_offset, entries)
    }
}
