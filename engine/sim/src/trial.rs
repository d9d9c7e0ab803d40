//! From the books and the final read to a verdict: the same checker that judges real brokers.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_checker::{
    Anomaly, Compaction, Contract, Fault, FaultEvent, FaultKind, Identity, Isolation, Layout, Ledger, Loss,
    Nanos, Observation, Observed, Offset, PartitionId, PartitionIndex, Permission, Polls, ProducerId,
    ProducerLedger, Reader, Reading, RunId, Scope, Sequences, Setting, Trial, Verdict, judge, promise,
};
use highwater_io::sim::TornUnit;

use crate::actor::producer::REQUEST_TIMEOUT;
use crate::actor::reader::{Content, PartitionContent};
use crate::books::{Books, Event, Lane, PollNote, Records};
use crate::outcome::Breach;
use crate::promises::{Presence, Promises};
use crate::scenario::{Death, DiskHonesty, Scenario};

/// A death of the broker, with what the checker wants to know of it.
#[derive(Debug, Clone)]
pub(crate) struct Struck {
    pub(crate) death: Death,
    pub(crate) at: Nanos,
    /// When it was started again: what was acknowledged before that, no later death answers for.
    pub(crate) restored_at: Nanos,
    /// When it served again.
    pub(crate) served_at: Option<Nanos>,
    /// (topic, partition, log end) right after recovery, where somebody asked.
    pub(crate) recovered_ends: Vec<(u32, u32, i64)>,
}

/// The kind of fault that a death is.
pub(crate) fn fault_kind(scenario: &Scenario, death: Death) -> FaultKind {
    match death {
        Death::PowerCut if scenario.disk != DiskHonesty::Honest => FaultKind::LyingFlush,
        Death::PowerCut if scenario.torn_unit == TornUnit::Block4096 => FaultKind::PowerCutEachFlush,
        Death::PowerCut => FaultKind::TornWrite,
        Death::OsCrash => FaultKind::SystemCrash,
        Death::Kill | Death::Stop => FaultKind::ProcessKill,
    }
}

/// What was owed after all these deaths: the least of what was owed after each, and of what is lost by which death, what was owed
/// after that one.
pub(crate) fn contract(setting: &Setting, kinds: &[FaultKind]) -> Contract {
    let fault = |&kind: &FaultKind| Fault { kind, scope: Scope::AllBrokers, in_sync_replicas: None };
    let contracts: Vec<Contract> = kinds.iter().map(|kind| promise(setting, Some(&fault(kind)))).collect();
    let loss_by_kind: BTreeMap<FaultKind, Loss> =
        kinds.iter().copied().zip(contracts.iter().map(|contract| contract.loss)).collect();
    let may_see = contracts.iter().any(|contract| contract.read_then_lost == Permission::Permitted);
    let weight = |contract: &Contract| match contract.loss {
        Loss::Nothing => 0,
        Loss::Tail { .. } => 1,
        Loss::Anything => 2,
        Loss::NothingAcknowledged => 3,
    };
    let mut least = contracts.into_iter().max_by_key(weight).unwrap_or_else(|| promise(setting, None));
    if may_see {
        least.read_then_lost = Permission::Permitted;
    }
    least.loss_by_kind = loss_by_kind.into_iter().collect();
    least
}

/// The topics that are judged: by number, with no partitions where they are gone.
fn layout(promises: &Promises, content: &Content) -> Layout {
    let is_left = |number: usize| {
        let topic = &promises.topics[number];
        // The last of a name is the one that is there.
        let last = promises.topics.iter().rposition(|other| other.name == topic.name);
        topic.presence != Presence::Gone && last == Some(number) && content.topics.contains_key(&topic.name)
    };
    let counts: Vec<u32> = (0..promises.topics.len())
        .map(|number| if is_left(number) { promises.topics[number].partitions } else { 0 })
        .collect();
    Layout::new(&counts)
}

/// Makes a producer's ledgers from events. Records below where their log begins were deleted by request: whether
/// they are there says nothing, so that their outcome is taken to be unknown.
pub(crate) fn ledger(
    run: RunId,
    layout: &Layout,
    producers: u32,
    events: &[Event],
    log_start: impl Fn(PartitionIndex) -> i64,
) -> Ledger {
    let mut ledgers: Vec<ProducerLedger> =
        (0..producers).map(|producer| ProducerLedger::new(run, ProducerId(producer), layout)).collect();
    let place = |lane: Lane| layout.index(PartitionId { topic: lane.topic, partition: lane.partition });
    for &event in events {
        let lane = match event {
            Event::Attempt { lane, .. } => lane,
            Event::Ack { records, .. }
            | Event::Error { records, .. }
            | Event::Sent { records }
            | Event::NeverSent { records } => records.lane,
        };
        let (Some(place), Some(ledger)) = (place(lane), ledgers.get_mut(lane.producer as usize)) else {
            continue;
        };
        let run_of = |records: Records| Sequences { first: records.first, count: records.count };
        let settled = match event {
            Event::Attempt { sent_at, value_len, key, .. } => {
                match key {
                    Some(key) => ledger.attempt_keyed(place, sent_at, value_len, key),
                    None => ledger.attempt(place, sent_at, value_len),
                };
                Ok(())
            }
            Event::Ack { records, base_offset, at } => {
                book_ack(ledger, place, run_of(records), (base_offset, at), log_start(place))
            }
            Event::Error { records, class, code } => ledger.error(place, run_of(records), class, code),
            Event::Sent { records } => ledger.sent(place, run_of(records)),
            Event::NeverSent { records } => ledger.never_sent(place, run_of(records)),
        };
        settled.expect("a client gives each record one outcome");
    }
    Ledger::gather(run, layout, ledgers).expect("the ledgers are of one run")
}

fn book_ack(
    ledger: &mut ProducerLedger,
    place: PartitionIndex,
    records: Sequences,
    (base_offset, at): (i64, Nanos),
    log_start: i64,
) -> Result<(), highwater_checker::LedgerError> {
    let below = (log_start - base_offset).clamp(0, i64::from(records.count));
    let deleted = u32::try_from(below).expect("at most the count");
    if deleted > 0 {
        let gone = Sequences { first: records.first, count: deleted };
        ledger.deleted(place, gone, Offset(base_offset), at)?;
    }
    if deleted < records.count {
        let kept = Sequences { first: records.first + u64::from(deleted), count: records.count - deleted };
        ledger.ack(place, kept, Offset(base_offset + below), at)?;
    }
    Ok(())
}

/// Everything that is known at the end of a run.
pub(crate) struct Evidence<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) books: &'a Books,
    pub(crate) promises: &'a Promises,
    pub(crate) content: &'a Content,
    pub(crate) deaths: &'a [Struck],
}

impl Evidence<'_> {
    /// The checker's verdict on all records of the topics that are there.
    pub(crate) fn verdict(&self) -> Verdict {
        let layout = layout(self.promises, self.content);
        let starts = self.deleted_below(&layout);
        let log_start = |place: PartitionIndex| starts.get(&place.get()).copied().unwrap_or(0);
        let events = self.books.take_events();
        // The last producer is the administrator.
        let producers = self.scenario.producers + 1;
        let mut contract = self.contract();
        if contract.duplicates == Permission::Permitted && starts.values().any(|&start| start > 0) {
            contract.first_copies_deleted = true;
        }
        contract.compaction = self.scenario.compacted.map(|compacted| Compaction {
            // The broker counts whole milliseconds.
            delete_retention: nanos(compacted.delete_retention.saturating_sub(Duration::from_millis(1))),
            read_at: self.content.read_at,
            copies_within: nanos(REQUEST_TIMEOUT),
        });
        let trial = Trial {
            ledger: ledger(self.books.run, &layout, producers, &events, log_start),
            faults: self
                .deaths
                .iter()
                .map(|struck| event(&layout, struck, fault_kind(self.scenario, struck.death)))
                .collect(),
            readings: vec![self.reading(&layout)],
            polls: vec![self.polls(&layout, log_start)],
            observations: self.observations(&layout),
        };
        judge(trial, &contract).expect("the evidence is whole")
    }

    fn contract(&self) -> Contract {
        let kinds: Vec<FaultKind> =
            self.deaths.iter().map(|struck| fault_kind(self.scenario, struck.death)).collect();
        contract(&self.scenario.setting(), &kinds)
    }

    /// Whether retention may have discarded segments of a topic: it was asked to.
    fn may_expire(&self, topic: usize) -> bool {
        self.scenario.may_expire(topic) && self.promises.retained_bytes.contains_key(&topic)
    }

    fn name(&self, layout: &Layout, place: PartitionIndex) -> (String, u32) {
        let id = layout.id(place);
        (self.promises.topics[id.topic as usize].name.clone(), id.partition)
    }

    /// Below which offset records may have been deleted. Where nothing but requests deletes, a log may still begin behind what
    /// was asked for: compaction had left nothing of the segments there. It answers for each record of them.
    fn deleted_below(&self, layout: &Layout) -> BTreeMap<usize, i64> {
        let start = |place: PartitionIndex| {
            let (name, partition) = self.name(layout, place);
            let log_start = self.content.partitions.get(&(name, partition))?.log_start;
            let topic = layout.id(place).topic as usize;
            let asked = self.promises.trims.get(&(topic, partition)).map_or(0, |trim| trim.asked);
            let may_expire = self.may_expire(topic);
            Some((place.get(), if may_expire { log_start } else { log_start.min(asked) }))
        };
        layout.partitions().filter_map(start).collect()
    }

    fn reading(&self, layout: &Layout) -> Reading {
        let mut reading = Reading::new(Reader::FINAL, self.books.run, layout);
        for place in layout.partitions() {
            let Some(content) = self.content.partitions.get(&self.name(layout, place)) else {
                // A disk that lies may take a whole partition. On an honest one, a partition that was not read is an error
                // of the evidence, which the checker names.
                if self.scenario.disk != DiskHonesty::Honest {
                    reading.bounds(place, Offset(0), Offset(0));
                }
                continue;
            };
            reading.bounds(place, Offset(content.log_start), Offset(content.log_end));
            for (offset, value) in &content.records {
                match value {
                    Ok(identity) => reading.record(place, Offset(*offset), Ok(*identity)),
                    Err(bytes) => reading.value(place, Offset(*offset), bytes),
                }
            }
        }
        reading
    }

    /// What the consumer saw, above where the logs begin now: what was deleted since cannot be held against a log.
    fn polls(&self, layout: &Layout, log_start: impl Fn(PartitionIndex) -> i64) -> Polls {
        let mut polls = Polls::new(0, Isolation::ReadUncommitted, self.books.run, layout);
        let place = |topic, partition| layout.index(PartitionId { topic, partition });
        for note in self.books.polls.borrow().iter() {
            match *note {
                PollNote::Record(record) => {
                    let Some(place) = place(record.topic, record.partition) else { continue };
                    if record.offset >= log_start(place) {
                        polls.record(place, Offset(record.offset), record.value, record.at);
                    }
                }
                PollNote::Restarted { topic, partition } => {
                    if let Some(place) = place(topic, partition) {
                        polls.restarted(place);
                    }
                }
                PollNote::LogEnd { .. } => {}
            }
        }
        polls
    }

    fn observations(&self, layout: &Layout) -> Vec<Observation> {
        let notes = self.books.polls.borrow();
        let ends = notes.iter().filter_map(|note| match *note {
            PollNote::LogEnd { topic, partition, end, asked_at, at } => Some(Observation {
                partition: layout.index(PartitionId { topic, partition })?,
                asked_at,
                at,
                observed: Observed::LogEnd,
                offset: Offset(end),
            }),
            PollNote::Record(_) | PollNote::Restarted { .. } => None,
        });
        ends.collect()
    }

    /// Promises that are not about records.
    pub(crate) fn breaches(&self) -> Vec<Breach> {
        let mut breaches = Vec::new();
        self.check_topics(&mut breaches);
        self.check_settings(&mut breaches);
        self.check_starts(&mut breaches);
        self.check_recovered_ends(&mut breaches);
        breaches
    }

    fn check_topics(&self, breaches: &mut Vec<Breach>) {
        for topic in &self.promises.topics {
            if topic.presence == Presence::There && !self.content.topics.contains_key(&topic.name) {
                breaches.push(Breach::TopicLost(topic.name.clone()));
            }
        }
        for name in self.content.topics.keys() {
            let mut of_name = self.promises.topics.iter().filter(|topic| topic.name == *name);
            if of_name.all(|topic| topic.presence == Presence::Gone) {
                breaches.push(Breach::TopicBack(name.clone()));
            }
        }
    }

    fn check_settings(&self, breaches: &mut Vec<Breach>) {
        for ((topic, name), setting) in &self.promises.settings {
            let topic = &self.promises.topics[*topic].name;
            let value = self.content.settings.get(&(topic.clone(), (*name).to_owned()));
            let Some(value) = value.filter(|value| !setting.admits(value)) else { continue };
            breaches.push(Breach::SettingLost(format!("{name}={value} for {topic}, promised {setting:?}")));
        }
    }

    fn check_starts(&self, breaches: &mut Vec<Breach>) {
        for ((name, partition), content) in &self.content.partitions {
            let number = self.promises.topics.iter().rposition(|topic| topic.name == *name);
            let trim = number.and_then(|number| self.promises.trims.get(&(number, *partition)));
            let trim = trim.copied().unwrap_or_default();
            let line = || format!("{name}-{partition} begins at {}, {trim:?}", content.log_start);
            if content.log_start < trim.acknowledged {
                breaches.push(Breach::LogStartWentBack(line()));
            }
            let compacted = number.and_then(|number| self.scenario.compacted_topic(number));
            let drops_emptied = compacted.is_some_and(|compacted| compacted.deletes_too);
            let may_expire = number.is_some_and(|number| self.may_expire(number));
            if content.log_start > trim.asked && !may_expire && !drops_emptied {
                breaches.push(Breach::LogStartWentAhead(line()));
            }
            let retained = number.and_then(|number| self.promises.retained_bytes.get(&number).copied());
            let at_most = bytes_at_most(content);
            // Where the end of a log may be lost, what is left may be small for that reason.
            let is_judged = may_expire && compacted.is_none() && self.contract().loss == Loss::Nothing;
            if is_judged
                && content.log_start > trim.asked
                && retained.is_some_and(|retained| at_most < retained)
            {
                breaches.push(Breach::DeletedEarly(format!(
                    "{}; what is left has {at_most} bytes at most, {retained:?} had to stay",
                    line()
                )));
            }
        }
    }

    /// Recovery flushes what it found, so that no later death takes it.
    fn check_recovered_ends(&self, breaches: &mut Vec<Breach>) {
        let mut highest: BTreeMap<(u32, u32), i64> = BTreeMap::new();
        for struck in self.deaths {
            for &(topic, partition, end) in &struck.recovered_ends {
                let before = highest.entry((topic, partition)).or_insert(end);
                if end < *before {
                    let line = format!("partition {topic}-{partition} recovered to {before}, then to {end}");
                    breaches.push(Breach::LogEndWentBack(line));
                }
                *before = (*before).max(end);
            }
        }
    }
}

/// The most that a record takes in a log beside its value: a batch header of its own (61), the longest fields of the record's
/// own header, a key.
const OVERHEAD_BYTES: u64 = 61 + 32 + 16;

/// What is left of a partition has no more bytes than this, as segments count them.
fn bytes_at_most(content: &PartitionContent) -> u64 {
    let value_bytes = |value: &Result<Identity, Vec<u8>>| match value {
        Ok(identity) => u64::from(identity.value_len),
        Err(bytes) => bytes.len() as u64,
    };
    content.records.iter().map(|(_, value)| value_bytes(value) + OVERHEAD_BYTES).sum()
}

fn nanos(duration: Duration) -> Nanos {
    Nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

fn event(layout: &Layout, struck: &Struck, kind: FaultKind) -> FaultEvent {
    let place = |&(topic, partition, end): &(u32, u32, i64)| {
        Some((layout.index(PartitionId { topic, partition })?, Offset(end)))
    };
    FaultEvent {
        fault: Fault { kind, scope: Scope::AllBrokers, in_sync_replicas: None },
        struck_at: struck.at,
        silenced_at: struck.at,
        restored_at: struck.restored_at,
        recovered_ends: struck.recovered_ends.iter().filter_map(place).collect(),
    }
}

/// Whether an anomaly means that a record is gone that should be there.
#[must_use]
pub fn is_loss(anomaly: Anomaly) -> bool {
    matches!(anomaly, Anomaly::LostTail | Anomaly::LostHole | Anomaly::LostBeyondWindow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::steady_topic;
    use crate::promises::Topic;
    use crate::scenario::Compacted;

    /// What is said of the only topic's start at 5, which nobody asked for: whether it is a breach, and below which offset
    /// records may be gone.
    fn judged(retention: bool, compacted: Option<Compacted>) -> (bool, i64) {
        judged_where(retention, compacted, Some(20_000))
    }

    fn judged_where(retention: bool, compacted: Option<Compacted>, retained: Option<u64>) -> (bool, i64) {
        let scenario = Scenario { retention, compacted, ..Scenario::seeded(0) };
        let (books, mut promises, mut content) =
            (Books::new(RunId(1)), Promises::default(), Content::default());
        let topic = Topic { presence: Presence::There, ..Topic::new(steady_topic(0), 1) };
        content.topics.insert(topic.name.clone(), 1);
        let read = PartitionContent { log_start: 5, log_end: 9, records: Vec::new() };
        content.partitions.insert((topic.name.clone(), 0), read);
        promises.topics.push(topic);
        promises.retained_bytes.extend(retained.map(|bytes| (0, bytes)));
        let evidence = Evidence {
            scenario: &scenario,
            books: &books,
            promises: &promises,
            content: &content,
            deaths: &[],
        };
        let is_ahead = |breach: &Breach| matches!(breach, Breach::LogStartWentAhead(_));
        let below = evidence.deleted_below(&layout(&promises, &content));
        (evidence.breaches().iter().any(is_ahead), below[&0])
    }

    #[test]
    fn retention_touches_no_topic_that_is_only_compacted() {
        let compacted = |deletes_too| {
            let (delete_retention, backoff) = (Duration::from_millis(5), Duration::from_millis(1));
            Some(Compacted { deletes_too, keys: 2, delete_retention, backoff })
        };
        assert_eq!(judged(true, None), (false, 5));
        assert_eq!(judged(true, compacted(true)), (false, 5));
        assert_eq!(judged(true, compacted(false)), (true, 0));
        assert_eq!(judged(false, None), (true, 0));
        // Nobody asked for any.
        assert_eq!(judged_where(true, None, None), (true, 0));
    }
}
