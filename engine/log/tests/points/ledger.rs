//! What a run asked of each log and what it was answered, and when: the measure of every state that a cut leaves.
//!
//! Each log's operations come from one task, so their order is known, and a log is right after a cut if it is what some
//! beginning of them makes: one that holds everything whose durability was reported before the cut, and nothing that was
//! asked for after it. A log that is compacted may lack what [`Compactions`] lets it.

use highwater_disk::Stamp;
use highwater_model::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};

use crate::compaction::Compactions;

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) type Instant = u64;

pub(crate) fn now() -> Instant {
    Stamp::now().monotonic_ns
}

/// The value that has this number.
pub(crate) fn value(number: u32) -> Vec<u8> {
    let hash = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let size = [20, 200, 1500, 4096][hash as usize % 4] + (hash >> 2) as usize % 100;
    let mut value = format!("{number}:").into_bytes();
    value.resize(size, (number % 251) as u8);
    value
}

/// The number of a value, if it is intact.
pub(crate) fn number_of(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.split(|&byte| byte == b':').next()?;
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (value(number) == bytes).then_some(number)
}

#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Create,
    /// One batch of the values of these numbers.
    Append(Vec<u32>),
    /// To the start of the batch that holds this offset.
    Truncate(i64),
    MoveStart(i64),
    /// Moves the start to somewhere, which is known once it is done.
    Retain,
    Delete,
    /// A start after the process had died found what the first so many operations make, and the start there; the others never
    /// happened.
    Recover {
        operations: usize,
        start: i64,
    },
}

#[derive(Debug, Clone)]
struct Entry {
    operation: Operation,
    asked: Instant,
    /// When it was reported that this survives the death of the process, and the loss of power.
    written: Option<Instant>,
    durable: Option<Instant>,
    /// When a change other than an append was answered.
    answered: Option<Instant>,
    /// End of the log after an append, once it was accepted.
    end: Option<i64>,
}

/// What a log holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) exists: bool,
    pub(crate) start: i64,
    /// Numbers of the values from offset 0 on, those below the start too.
    values: Vec<u32>,
    /// First offsets of batches, ascending.
    batch_starts: Vec<i64>,
}

/// What was found in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// Offsets and values from the start to the end.
    pub(crate) values: Vec<(i64, u32)>,
}

impl State {
    pub(crate) fn end(&self) -> i64 {
        self.values.len() as i64
    }

    fn end_after_truncation(&self, offset: i64) -> i64 {
        if offset >= self.end() {
            return self.end();
        }
        self.batch_starts.iter().rev().find(|start| **start <= offset).copied().unwrap_or(offset)
    }

    fn end_at(&mut self, end: i64) {
        self.values.truncate(usize::try_from(end).unwrap_or(0));
        self.batch_starts.retain(|start| *start < end);
        self.start = self.start.min(end);
    }

    /// Whether what was found begins and ends so, with the start at most at `highest_start`.
    fn spans(&self, found: &Found, highest_start: i64) -> bool {
        self.exists && (self.start..=highest_start).contains(&found.start) && found.end == self.end()
    }
}

/// One topic that was created once.
#[derive(Debug)]
pub(crate) struct LogHistory {
    pub(crate) id: TopicPartition,
    entries: Vec<Entry>,
    /// What the first so many operations make.
    states: Vec<State>,
    pub(crate) compactions: Compactions,
}

/// Which report counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The process died: what was written counts.
    Process,
    /// The power went: what was durable counts.
    Power,
}

impl LogHistory {
    fn new(id: TopicPartition) -> Self {
        let compactions = Compactions::default();
        LogHistory { id, entries: Vec::new(), states: vec![State::default()], compactions }
    }

    fn push(&mut self, operation: Operation) {
        let asked = now();
        if let Operation::Append(numbers) = &operation {
            self.compactions.appended(numbers, asked);
        }
        self.states.push(self.after(&operation));
        self.entries.push(Entry {
            operation,
            asked,
            written: None,
            durable: None,
            answered: None,
            end: None,
        });
    }

    /// What an operation makes of the log as it is last.
    fn after(&self, operation: &Operation) -> State {
        let mut state = self.states[self.states.len() - 1].clone();
        match operation {
            Operation::Create => state = State { exists: true, ..State::default() },
            Operation::Append(numbers) => {
                state.batch_starts.push(state.end());
                state.values.extend(numbers);
            }
            Operation::Truncate(offset) => state.end_at(state.end_after_truncation(*offset)),
            Operation::MoveStart(offset) => state.start = state.start.max(*offset),
            // Not known yet.
            Operation::Retain => {}
            Operation::Delete => state = State::default(),
            Operation::Recover { operations, start } => {
                state = self.states[*operations].clone();
                state.start = *start;
            }
        }
        state
    }

    /// What the log should be now, were everything done that was asked.
    pub(crate) fn state(&self) -> &State {
        &self.states[self.entries.len()]
    }

    /// Numbers of operations after which the log may stand at `at`: the fewest, and the most.
    fn bounds(&self, loss: Loss, at: Instant) -> (usize, usize) {
        let reported = |entry: &Entry| match loss {
            Loss::Process => entry.written,
            Loss::Power => entry.durable,
        };
        let is_before = |entry: &Entry| reported(entry).is_some_and(|reported| reported < at);
        let fewest = self.entries.iter().rposition(is_before).map_or(0, |last| last + 1);
        (fewest, self.entries.iter().take_while(|entry| entry.asked < at).count())
    }

    /// What the first so many operations make, and where the log may begin at most.
    fn with_starts(&self, operations: usize, at: Instant) -> (&State, i64) {
        let state = &self.states[operations];
        let Some(last) = operations.checked_sub(1) else { return (state, state.start) };
        let entry = &self.entries[last];
        if !matches!(entry.operation, Operation::Retain)
            || entry.answered.is_some_and(|answered| answered < at)
        {
            return (state, state.start);
        }
        // The start may be anywhere between.
        (&self.states[last], state.end())
    }

    /// After how many operations the log is what was found. The explanation if there is no such number.
    fn judge(&self, loss: Loss, at: Instant, found: Option<&Found>) -> Result<usize, String> {
        let (fewest, most) = self.bounds(loss, at);
        let mut objection = None;
        for operations in fewest..=most {
            let Some(found) = found else {
                if !self.states[operations].exists {
                    return Ok(operations);
                }
                continue;
            };
            let (state, highest_start) = self.with_starts(operations, at);
            if state.spans(found, highest_start) {
                match self.compactions.objection(&state.values, found, at) {
                    None => return Ok(operations),
                    other => objection = other,
                }
            }
        }
        let seen = found.map_or("nothing".to_owned(), |found| {
            format!("{}..{}, values {:?}", found.start, found.end, shortened(&found.values))
        });
        let lowest = &self.states[fewest];
        let asked: Vec<_> = self.entries[fewest..most].iter().map(|entry| &entry.operation).collect();
        Err(format!(
            "{}: {}found {seen}; reported was {}, {}..{} ({} operations), asked for beyond that {asked:?}",
            self.id,
            objection.map_or_else(String::new, |what| format!("{what}; ")),
            if lowest.exists { "a log" } else { "no log" },
            lowest.start,
            lowest.end(),
            fewest,
        ))
    }
}

fn shortened(values: &[(i64, u32)]) -> &[(i64, u32)] {
    &values[values.len().saturating_sub(4)..]
}

/// Where an operation is noted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noted {
    log: usize,
    entry: usize,
}

/// All logs of a run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    logs: Vec<LogHistory>,
    next_number: u32,
    pub(crate) epoch: i32,
    /// The first thing that was wrong while the run went on.
    pub(crate) violation: Option<String>,
}

impl Ledger {
    /// The log that stands for `partition` now: each creation makes a new topic, under the same name.
    pub(crate) fn current(&self, partition: i32) -> Option<&LogHistory> {
        self.logs.iter().rev().find(|log| log.id.partition.0 == partition)
    }

    pub(crate) fn begin(&mut self, partition: i32) -> TopicPartition {
        let topic_id = TopicId(uuid::Uuid::from_u128(self.logs.len() as u128 + 1));
        let id = TopicPartition { topic_id, partition: PartitionIndex(partition) };
        self.logs.push(LogHistory::new(id));
        id
    }

    /// Numbers of values that nobody appended.
    pub(crate) fn fresh_numbers(&mut self, count: u32) -> Vec<u32> {
        self.next_number += count;
        (self.next_number - count..self.next_number).collect()
    }

    pub(crate) fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.epoch)
    }

    pub(crate) fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// To be called before it is asked for.
    pub(crate) fn ask(&mut self, id: TopicPartition, operation: Operation) -> Noted {
        let log = self.logs.iter().position(|log| log.id == id).expect("the log was begun");
        self.logs[log].push(operation);
        Noted { log, entry: self.logs[log].entries.len() - 1 }
    }

    /// To be called before a compaction is asked for.
    pub(crate) fn ask_for_compaction(&mut self, id: TopicPartition) {
        let log = self.log_mut(id);
        let end = log.state().end();
        log.compactions.asked(end, now());
    }

    /// What somebody read of a log, who began at `since`. To be called by whoever asks for its operations, before the next.
    pub(crate) fn saw(&mut self, id: TopicPartition, found: &Found, since: Instant) {
        let log = self.log_mut(id);
        match log.judge(Loss::Process, since, Some(found)) {
            Ok(_) => log.compactions.saw(found, now()),
            Err(what) => self.violate(format!("read while all was well: {what}")),
        }
    }

    fn log_mut(&mut self, id: TopicPartition) -> &mut LogHistory {
        self.logs.iter_mut().find(|log| log.id == id).expect("the log was begun")
    }

    /// Offsets that compaction was seen to have taken, and how many of them a pass before had kept.
    pub(crate) fn compacted(&self) -> (usize, u64) {
        let of_all = self.logs.iter().map(|log| &log.compactions);
        of_all.fold((0, 0), |(gone, later), log| (gone + log.gone(), later + log.gone_later))
    }

    /// To be called once an append is accepted.
    pub(crate) fn accepted(&mut self, noted: Noted, base_offset: i64) {
        let log = &mut self.logs[noted.log];
        let (base, end) = (log.states[noted.entry].end(), log.states[noted.entry + 1].end());
        log.entries[noted.entry].end = Some(end);
        if base != base_offset {
            let what = format!("{}: an append was given offset {base_offset}, not {base}", log.id);
            self.violate(what);
        }
    }

    pub(crate) fn written(&mut self, noted: Noted) {
        self.logs[noted.log].entries[noted.entry].written.get_or_insert_with(now);
    }

    pub(crate) fn durable(&mut self, noted: Noted) {
        self.logs[noted.log].entries[noted.entry].answered.get_or_insert_with(now);
        let states = &self.logs[noted.log].states[noted.entry..];
        if states[0] == states[1] {
            // Nothing had to be done, so nothing is said of what was asked for before.
            return;
        }
        self.holds(noted);
    }

    /// All up to this survives whatever happens.
    fn holds(&mut self, noted: Noted) {
        self.written(noted);
        self.logs[noted.log].entries[noted.entry].durable.get_or_insert_with(now);
    }

    /// The log was seen to be durable below `offset`.
    pub(crate) fn durable_below(&mut self, noted: Noted, offset: i64) {
        for entry in &mut self.logs[noted.log].entries[..=noted.entry] {
            if entry.end.is_some_and(|end| end <= offset) {
                entry.durable.get_or_insert_with(now);
            }
        }
    }

    pub(crate) fn retained(&mut self, noted: Noted, start: i64) {
        let state = &mut self.logs[noted.log].states[noted.entry + 1];
        state.start = state.start.max(start);
        self.durable(noted);
    }

    /// Judges what was found of all logs. The last word of [`recovered`](Self::recovered) is what counts from then on.
    pub(crate) fn judge(
        &self,
        loss: Loss,
        at: Instant,
        found: &[(TopicPartition, Found)],
    ) -> Result<Vec<usize>, String> {
        if let Some((id, _)) = found.iter().find(|(id, _)| self.logs.iter().all(|log| log.id != *id)) {
            return Err(format!("{id} was never created"));
        }
        let of = |log: &LogHistory| found.iter().find(|(id, _)| *id == log.id).map(|(_, found)| found);
        self.logs.iter().map(|log| log.judge(loss, at, of(log))).collect()
    }

    /// A process has died and another one has started and found this, which is durable now.
    pub(crate) fn recovered(&mut self, found: &[(TopicPartition, Found)]) {
        let operations = match self.judge(Loss::Process, Instant::MAX, found) {
            Ok(operations) => operations,
            Err(what) => return self.violate(format!("after the process had died: {what}")),
        };
        for (index, operations) in operations.into_iter().enumerate() {
            let id = self.logs[index].id;
            let found = found.iter().find(|(found, _)| *found == id).map(|(_, found)| found);
            if let Some(found) = found.filter(|_| self.logs[index].compactions.has_begun()) {
                self.logs[index].compactions.saw(found, now());
            }
            let start = found.map_or(0, |found| found.start);
            let noted = self.ask(id, Operation::Recover { operations, start });
            self.holds(noted);
        }
        self.epoch += 1;
    }

    /// When the first thing was asked for.
    pub(crate) fn begun(&self) -> Instant {
        self.logs.iter().flat_map(|log| &log.entries).map(|entry| entry.asked).min().unwrap_or(0)
    }

    /// Operations noted, for the report.
    pub(crate) fn operations(&self) -> usize {
        self.logs.iter().map(|log| log.entries.len()).sum()
    }
}
