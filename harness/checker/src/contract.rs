//! What a setting promises under a fault: Kafka's own semantics, written as one function.
//!
//! A contract says what *may* be lost in the worst case that the setting allows, not what usually
//! is. A broker that loses less keeps it. Facts that the rules lean on:
//!
//! - acks=1 answers once the leader has written; a clean election may choose a member of the ISR that
//!   has not fetched the record yet.
//! - acks=all answers once the whole ISR has written, and `min.insync.replicas` bounds how small the
//!   ISR may be for that. A clean election chooses from the ISR.
//! - *written* is the page cache. It survives a killed process, not a power cut. A flush happens with
//!   the append that fills `flush.messages`, before its ack; so fewer than `flush.messages`
//!   acknowledged messages of a partition are unflushed at any time.
//! - Consumers read below the high watermark: what they saw, the whole ISR has written.
//! - With eligible leader replicas (KIP-966) the high watermark stands still below
//!   `min.insync.replicas`, and a broker that stopped uncleanly is not elected from the ISR.

use crate::codes::AckPoint;
use crate::fault::{Fault, FaultKind, Scope};
use crate::units::Nanos;
use serde::{Deserialize, Serialize};
use std::fmt;

/// `acks` of the producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Acks {
    /// No response at all.
    #[serde(rename = "0")]
    Zero,
    /// The leader has written it.
    #[serde(rename = "1")]
    One,
    /// The whole ISR has written it.
    #[serde(rename = "all")]
    All,
}

impl fmt::Display for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zero => "0",
            Self::One => "1",
            Self::All => "all",
        })
    }
}

/// When a broker flushes a partition's log to the medium.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flush {
    /// `flush.messages`; absent: never by count.
    pub messages: Option<u64>,
    /// `flush.ms`; absent: never by time.
    pub ms: Option<u64>,
    /// How often the broker looks whether `flush.ms` has passed: Kafka's
    /// `log.flush.scheduler.interval.ms`, absent while that is off (its default), since `flush.ms`
    /// has no effect then; 0 where the broker flushes by itself.
    pub check_interval_ms: Option<u64>,
}

impl Flush {
    /// Left to the operating system.
    pub const LEFT_TO_SYSTEM: Self = Self { messages: None, ms: None, check_interval_ms: None };
    /// The ack waits for the flush: `flush.messages=1`.
    pub const EVERY_MESSAGE: Self = Self { messages: Some(1), ms: None, check_interval_ms: None };

    /// Every `n` messages of a partition.
    #[must_use]
    pub const fn every_messages(n: u64) -> Self {
        Self { messages: Some(n), ms: None, check_interval_ms: None }
    }

    /// By time, where the broker checks every `check_interval_ms` (0: by itself).
    #[must_use]
    pub const fn every_ms(ms: u64, check_interval_ms: u64) -> Self {
        Self { messages: None, ms: Some(ms), check_interval_ms: Some(check_interval_ms) }
    }

    /// Whether an acknowledged message is always flushed.
    #[must_use]
    pub const fn is_every_message(&self) -> bool {
        matches!(self.messages, Some(0 | 1))
    }

    /// What may be acknowledged and not yet flushed.
    #[must_use]
    pub fn exposure(&self) -> Loss {
        if self.is_every_message() {
            return Loss::Nothing;
        }
        let window = match (self.ms, self.check_interval_ms) {
            (Some(ms), Some(interval)) => Some(Nanos::from_millis(ms.saturating_add(interval))),
            _ => None,
        };
        Loss::Tail { messages: self.messages.map(|n| n - 1), window }
    }
}

impl fmt::Display for Flush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.messages, self.ms) {
            (None, None) => f.write_str("flush left to the system"),
            (Some(messages), None) => write!(f, "flush.messages={messages}"),
            (None, Some(ms)) => write!(f, "flush.ms={ms}"),
            (Some(messages), Some(ms)) => write!(f, "flush.messages={messages}, flush.ms={ms}"),
        }
    }
}

/// The settings that decide what may be lost, as the broker and the producer really have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    /// `acks`.
    pub acks: Acks,
    /// `flush.messages`, `flush.ms`.
    pub flush: Flush,
    /// Replicas of each partition, at least 1.
    pub replication_factor: u32,
    /// `min.insync.replicas`.
    pub min_insync_replicas: u32,
    /// `unclean.leader.election.enable`.
    pub unclean_leader_election: bool,
    /// Eligible leader replicas (KIP-966).
    pub eligible_leader_replicas: bool,
    /// `enable.idempotence`.
    pub idempotence: bool,
    /// `max.in.flight.requests.per.connection`.
    pub max_in_flight: u32,
}

impl Setting {
    /// One broker, one producer session without idempotence, one request in flight.
    #[must_use]
    pub const fn single_broker(acks: Acks, flush: Flush) -> Self {
        Self {
            acks,
            flush,
            replication_factor: 1,
            min_insync_replicas: 1,
            unclean_leader_election: false,
            eligible_leader_replicas: false,
            idempotence: false,
            max_in_flight: 1,
        }
    }

    /// When the broker answers, for [`crate::codes::classify`]. An ack that waits for a flush counts
    /// as waiting: whether the broker appends first is its own business.
    #[must_use]
    pub const fn ack_point(&self) -> AckPoint {
        match self.acks {
            Acks::All => AckPoint::AfterWait,
            Acks::Zero | Acks::One if self.flush.messages.is_some() => AckPoint::AfterWait,
            Acks::Zero | Acks::One => AckPoint::AtAppend,
        }
    }
}

/// What may be lost of what was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Nothing.
    Nothing,
    /// A suffix of each partition's log, within both bounds where they are present.
    Tail {
        /// At most so many acknowledged messages of a partition.
        messages: Option<u64>,
        /// Only what was acknowledged within this span before the fault.
        window: Option<Nanos>,
    },
    /// Anything (the medium itself broke its promise, and there is no other copy).
    Anything,
    /// Nothing is acknowledged, so nothing is promised (acks=0).
    NothingAcknowledged,
}

impl Loss {
    /// A suffix without a bound.
    pub const UNBOUNDED_TAIL: Self = Self::Tail { messages: None, window: None };

    /// What may be lost where either may have been it.
    #[must_use]
    pub fn weaker(self, other: Self) -> Self {
        let most = |one: Option<u64>, other: Option<u64>| Some(one?.max(other?));
        match (self, other) {
            (
                Self::Tail { messages, window },
                Self::Tail { messages: other_messages, window: other_window },
            ) => Self::Tail {
                messages: most(messages, other_messages),
                window: most(window.map(|it| it.0), other_window.map(|it| it.0)).map(Nanos),
            },
            _ if self.weight() >= other.weight() => self,
            _ => other,
        }
    }

    /// The more, the less is promised.
    const fn weight(self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Tail { .. } => 1,
            Self::Anything => 2,
            Self::NothingAcknowledged => 3,
        }
    }
}

/// Whether an anomaly is a violation or is counted only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Allowed by the contract; counted.
    Permitted,
    /// A violation.
    Forbidden,
}

impl Permission {
    pub(crate) const fn when(allowed: bool) -> Self {
        if allowed { Self::Permitted } else { Self::Forbidden }
    }
}

/// What a broker owes under a setting and a fault. What is not named here is never permitted:
/// corrupt and phantom records, aborted reads, two values at one offset among survivors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    /// What may be lost. Where faults of several kinds struck: the most that any of them may take.
    pub loss: Loss,
    /// Where faults of several kinds struck, what each kind may take: a loss is held against that of the fault which took it, where
    /// that is certain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loss_by_kind: Vec<(FaultKind, Loss)>,
    /// Why, in one sentence for the report.
    pub because: String,
    /// Added to a window of time: how long the flush itself may take once it is due. [`promise`] says
    /// 500 ms; a harness that has measured the device knows better.
    pub flush_allowance: Nanos,
    /// A record twice in the log.
    pub duplicates: Permission,
    /// Records of one producer in another order than it sent them.
    pub reordering: Permission,
    /// Whether of a record that is twice in the log the first copy may have been deleted by request, so that the second seems to
    /// come late. What was acknowledged is in order all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first_copies_deleted: bool,
    /// A record that a consumer saw and that is gone.
    pub read_then_lost: Permission,
    /// Longest time without an ack under load; absent: not judged.
    pub unavailable_at_most: Option<Nanos>,
    /// `retention.bytes`: records may be deleted from the start of a partition's log as long as its newest so many
    /// bytes stay. Absent: nothing is ever deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<u64>,
    /// What compaction may take of the records that have a key in the ledger. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compaction: Option<Compaction>,
}

/// What compaction may take: a record as soon as a later one of its key is there, and a tombstone, with all that it covers,
/// once its time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compaction {
    /// `delete.retention.ms`.
    pub delete_retention: Nanos,
    /// When the final read was over.
    pub read_at: Nanos,
    /// How long after its ack a copy of a record may still come into the log, where there may be copies: the request timeout.
    pub copies_within: Nanos,
}

impl Contract {
    /// In one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self.loss {
            Loss::Nothing => "nothing acknowledged may be lost".to_owned(),
            Loss::NothingAcknowledged => "nothing is acknowledged, so nothing is promised".to_owned(),
            Loss::Anything => "anything may be lost: no copy of the data was promised to survive".to_owned(),
            Loss::Tail { messages: None, window: None } => {
                "the newest records may be lost, without a bound".to_owned()
            }
            Loss::Tail { messages: Some(n), window: None } => {
                format!("at most the newest {n} records of a partition may be lost")
            }
            Loss::Tail { messages: None, window: Some(window) } => format!(
                "only records acknowledged in the last {window} (and {} for the flush itself) may be lost",
                self.flush_allowance
            ),
            Loss::Tail { messages: Some(n), window: Some(window) } => format!(
                "at most the newest {n} records of a partition, acknowledged in the last {window} \
                 (and {} for the flush itself), may be lost",
                self.flush_allowance
            ),
        }
    }

    /// Whether no acknowledged record may be lost.
    #[must_use]
    pub const fn promises_everything(&self) -> bool {
        matches!(self.loss, Loss::Nothing)
    }
}

/// The contract of a setting under a fault, or without one.
#[must_use]
pub fn promise(setting: &Setting, fault: Option<&Fault>) -> Contract {
    let (loss, because) = match fault {
        _ if setting.acks == Acks::Zero => (Loss::NothingAcknowledged, "acks=0 gets no response"),
        None => (Loss::Nothing, "no fault was injected"),
        Some(fault) => loss_under(setting, fault),
    };
    let visible = fault.is_some_and(|fault| consumers_may_see_loss(setting, fault));
    Contract {
        loss,
        loss_by_kind: Vec::new(),
        because: because.to_owned(),
        flush_allowance: Nanos::from_millis(500),
        duplicates: Permission::when(!setting.idempotence),
        reordering: Permission::when(!setting.idempotence && setting.max_in_flight > 1),
        first_copies_deleted: false,
        read_then_lost: Permission::when(loss != Loss::Nothing && visible),
        unavailable_at_most: None,
        retention_bytes: None,
        compaction: None,
    }
}

/// What a fault destroys, which is all that the rules need to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destroys {
    Nothing,
    /// Leadership may move; what was written stays.
    Leadership,
    /// What was not flushed.
    Memory,
    /// What was flushed.
    Medium,
}

const fn destroys(kind: FaultKind) -> Destroys {
    match kind {
        FaultKind::ClockJump | FaultKind::ControllerLoss => Destroys::Nothing,
        FaultKind::ProcessKill
        | FaultKind::NetworkPartition
        | FaultKind::Pause
        | FaultKind::LeaderChange
        | FaultKind::SlowDisk
        | FaultKind::StalledDisk
        | FaultKind::DiskFull => Destroys::Leadership,
        FaultKind::PowerCut
        | FaultKind::PowerCutEachFlush
        | FaultKind::SystemCrash
        | FaultKind::TornWrite
        | FaultKind::DiskError => Destroys::Memory,
        FaultKind::LyingFlush | FaultKind::BitRot => Destroys::Medium,
    }
}

/// Whether a fault takes what was flushed: after that a broker cannot be blamed for not starting.
pub(crate) const fn gives_up_medium(kind: FaultKind) -> bool {
    matches!(destroys(kind), Destroys::Medium)
}

/// The replicas when the fault strikes.
struct Replicas {
    in_sync: u32,
    /// A replica outside the ISR may be elected.
    unclean: bool,
    /// Eligible leader replicas keep every committed record although the ISR has one member.
    eligible: bool,
}

impl Replicas {
    fn new(setting: &Setting, fault: &Fault) -> Self {
        let assigned = setting.replication_factor.max(1);
        let in_sync = fault.in_sync_replicas.unwrap_or(assigned).clamp(1, assigned);
        Self {
            in_sync,
            unclean: setting.unclean_leader_election && in_sync < assigned,
            eligible: setting.eligible_leader_replicas && setting.min_insync_replicas > in_sync,
        }
    }

    fn leader_is_alone(&self) -> bool {
        self.in_sync == 1
    }
}

fn loss_under(setting: &Setting, fault: &Fault) -> (Loss, &'static str) {
    let replicas = Replicas::new(setting, fault);
    match (destroys(fault.kind), setting.acks) {
        (Destroys::Nothing, _) => (Loss::Nothing, "the fault touches no log"),
        (Destroys::Leadership, acks) => loss_by_election(acks, fault.scope, setting, &replicas),
        (Destroys::Memory, acks) => loss_of_memory(acks, fault.scope, setting, &replicas),
        (Destroys::Medium, Acks::All) if fault.scope == Scope::OneBroker && !replicas.leader_is_alone() => {
            (Loss::Nothing, "another member of the ISR has an intact copy")
        }
        (Destroys::Medium, _) => {
            (Loss::Anything, "the medium gave up what was flushed, and no copy was promised")
        }
    }
}

fn loss_by_election(
    acks: Acks,
    scope: Scope,
    setting: &Setting,
    replicas: &Replicas,
) -> (Loss, &'static str) {
    if setting.replication_factor <= 1 {
        return (Loss::Nothing, "what was written survives, and nobody else can lead");
    }
    let all_of_isr_down = replicas.leader_is_alone() || scope == Scope::AllBrokers;
    if replicas.unclean && all_of_isr_down && !(replicas.eligible && acks == Acks::All) {
        return (Loss::UNBOUNDED_TAIL, "an unclean election may choose a replica that fell behind");
    }
    match acks {
        Acks::All => (Loss::Nothing, "every member of the ISR has written it"),
        _ if replicas.leader_is_alone() => (Loss::Nothing, "only the leader itself can lead again"),
        _ => (Loss::UNBOUNDED_TAIL, "acks=1 does not wait for the followers, and one of them may lead"),
    }
}

fn loss_of_memory(acks: Acks, scope: Scope, setting: &Setting, replicas: &Replicas) -> (Loss, &'static str) {
    let exposure = setting.flush.exposure();
    let own_log = match exposure {
        Loss::Nothing => "the ack waited for the flush",
        _ => "what was not flushed is gone with the memory",
    };
    if setting.replication_factor <= 1 {
        return (exposure, own_log);
    }
    if acks == Acks::All && scope == Scope::OneBroker {
        if !replicas.leader_is_alone() && setting.min_insync_replicas > 1 {
            return (Loss::Nothing, "another member of the ISR has written it and keeps its power");
        }
        if !replicas.leader_is_alone() && exposure != Loss::Nothing {
            return (Loss::UNBOUNDED_TAIL, "min.insync.replicas=1 lets the ISR shrink to the leader alone");
        }
    }
    if acks == Acks::All && replicas.leader_is_alone() && replicas.eligible && scope == Scope::OneBroker {
        return (Loss::Nothing, "an eligible leader replica has all that was committed");
    }
    if replicas.unclean && (replicas.leader_is_alone() || scope == Scope::AllBrokers) {
        return (Loss::UNBOUNDED_TAIL, "an unclean election may choose a replica that fell behind");
    }
    if acks == Acks::All {
        return (exposure, own_log);
    }
    if replicas.leader_is_alone() && !replicas.eligible {
        return (exposure, own_log);
    }
    (Loss::UNBOUNDED_TAIL, "acks=1 does not wait for the followers, and one of them may lead")
}

/// Whether what is lost may have been below the high watermark.
fn consumers_may_see_loss(setting: &Setting, fault: &Fault) -> bool {
    let replicas = Replicas::new(setting, fault);
    match destroys(fault.kind) {
        Destroys::Nothing => false,
        Destroys::Leadership => replicas.unclean,
        Destroys::Memory => {
            fault.scope == Scope::AllBrokers || replicas.leader_is_alone() || setting.min_insync_replicas <= 1
        }
        Destroys::Medium => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: FaultKind, scope: Scope) -> Fault {
        Fault { kind, scope, in_sync_replicas: None }
    }

    fn replicated(acks: Acks, flush: Flush, min_insync_replicas: u32) -> Setting {
        Setting { replication_factor: 3, min_insync_replicas, ..Setting::single_broker(acks, flush) }
    }

    fn loss(setting: &Setting, fault: &Fault) -> Loss {
        promise(setting, Some(fault)).loss
    }

    const UNFLUSHED: Flush = Flush::LEFT_TO_SYSTEM;
    const DURABLE: Flush = Flush::EVERY_MESSAGE;

    #[test]
    fn promise_without_fault_is_everything_acknowledged() {
        let contract = promise(&Setting::single_broker(Acks::One, UNFLUSHED), None);
        assert_eq!(contract.loss, Loss::Nothing);
        assert_eq!(contract.read_then_lost, Permission::Forbidden);
        let none = promise(&Setting::single_broker(Acks::Zero, DURABLE), None);
        assert_eq!(none.loss, Loss::NothingAcknowledged);
    }

    #[test]
    fn promise_of_one_broker_follows_its_flush_setting() {
        let kill = fault(FaultKind::ProcessKill, Scope::OneBroker);
        let cut = fault(FaultKind::PowerCut, Scope::AllBrokers);
        let one = |flush| Setting::single_broker(Acks::One, flush);
        assert_eq!(loss(&one(UNFLUSHED), &kill), Loss::Nothing);
        assert_eq!(loss(&one(UNFLUSHED), &cut), Loss::UNBOUNDED_TAIL);
        assert_eq!(loss(&one(DURABLE), &cut), Loss::Nothing);
        let thousand = Loss::Tail { messages: Some(999), window: None };
        assert_eq!(loss(&one(Flush::every_messages(1000)), &cut), thousand);
    }

    #[test]
    fn promise_of_flush_ms_needs_a_scheduler() {
        let cut = fault(FaultKind::PowerCut, Scope::AllBrokers);
        let by_itself = Setting::single_broker(Acks::One, Flush::every_ms(100, 0));
        let window = Some(Nanos::from_millis(100));
        assert_eq!(loss(&by_itself, &cut), Loss::Tail { messages: None, window });
        let kafka_default = Flush { ms: Some(100), ..UNFLUSHED };
        assert_eq!(loss(&Setting::single_broker(Acks::One, kafka_default), &cut), Loss::UNBOUNDED_TAIL);
    }

    #[test]
    fn promise_of_acks_one_is_weak_under_election_even_when_flushed() {
        let cut = fault(FaultKind::PowerCut, Scope::OneBroker);
        let kill = fault(FaultKind::ProcessKill, Scope::OneBroker);
        let contract = promise(&replicated(Acks::One, DURABLE, 2), Some(&kill));
        assert_eq!(contract.loss, Loss::UNBOUNDED_TAIL);
        assert_eq!(contract.read_then_lost, Permission::Forbidden, "the ISR had what consumers saw");
        assert_eq!(loss(&replicated(Acks::One, DURABLE, 2), &cut), Loss::UNBOUNDED_TAIL);
        let alone = Fault { in_sync_replicas: Some(1), ..kill };
        assert_eq!(loss(&replicated(Acks::One, UNFLUSHED, 1), &alone), Loss::Nothing);
    }

    #[test]
    fn promise_of_acks_all_when_all_lose_power_is_the_flush_setting() {
        let cut = fault(FaultKind::PowerCut, Scope::AllBrokers);
        assert_eq!(loss(&replicated(Acks::All, UNFLUSHED, 2), &cut), Loss::UNBOUNDED_TAIL);
        assert_eq!(loss(&replicated(Acks::All, DURABLE, 2), &cut), Loss::Nothing);
        let contract = promise(&replicated(Acks::All, UNFLUSHED, 2), Some(&cut));
        assert_eq!(contract.read_then_lost, Permission::Permitted);
    }

    /// R12: the last replica standing.
    #[test]
    fn promise_of_acks_all_with_isr_of_one_depends_on_eligible_leaders() {
        let cut = Fault { in_sync_replicas: Some(1), ..fault(FaultKind::PowerCut, Scope::OneBroker) };
        let weak = replicated(Acks::All, UNFLUSHED, 1);
        assert_eq!(loss(&weak, &cut), Loss::UNBOUNDED_TAIL);
        assert_eq!(loss(&Setting { eligible_leader_replicas: true, ..weak }, &cut), Loss::UNBOUNDED_TAIL);
        let two = replicated(Acks::All, UNFLUSHED, 2);
        assert_eq!(loss(&two, &cut), Loss::UNBOUNDED_TAIL);
        assert_eq!(loss(&Setting { eligible_leader_replicas: true, ..two }, &cut), Loss::Nothing);
        assert_eq!(loss(&replicated(Acks::All, DURABLE, 1), &cut), Loss::Nothing);
    }

    #[test]
    fn promise_of_acks_all_when_one_loses_power_needs_two_in_sync() {
        let cut = fault(FaultKind::PowerCut, Scope::OneBroker);
        assert_eq!(loss(&replicated(Acks::All, UNFLUSHED, 2), &cut), Loss::Nothing);
        assert_eq!(loss(&replicated(Acks::All, UNFLUSHED, 1), &cut), Loss::UNBOUNDED_TAIL);
        assert_eq!(loss(&replicated(Acks::All, DURABLE, 1), &cut), Loss::Nothing);
    }

    #[test]
    fn promise_under_unclean_election_is_weak_once_a_replica_fell_behind() {
        let alone = Fault { in_sync_replicas: Some(1), ..fault(FaultKind::ProcessKill, Scope::OneBroker) };
        let unclean = Setting { unclean_leader_election: true, ..replicated(Acks::All, DURABLE, 1) };
        assert_eq!(loss(&unclean, &alone), Loss::UNBOUNDED_TAIL);
        assert_eq!(promise(&unclean, Some(&alone)).read_then_lost, Permission::Permitted);
        assert_eq!(loss(&unclean, &fault(FaultKind::ProcessKill, Scope::OneBroker)), Loss::Nothing);
    }

    #[test]
    fn promise_when_the_medium_lies_needs_another_copy() {
        for kind in [FaultKind::BitRot, FaultKind::LyingFlush] {
            let one = fault(kind, Scope::OneBroker);
            assert_eq!(loss(&Setting::single_broker(Acks::All, DURABLE), &one), Loss::Anything);
            assert_eq!(loss(&replicated(Acks::All, DURABLE, 2), &one), Loss::Nothing);
        }
    }

    #[test]
    fn promise_of_order_and_uniqueness_is_the_producers() {
        let plain = Setting::single_broker(Acks::All, DURABLE);
        let contract = promise(&plain, None);
        assert_eq!(contract.duplicates, Permission::Permitted);
        assert_eq!(contract.reordering, Permission::Forbidden, "one request in flight keeps order");
        let five = promise(&Setting { max_in_flight: 5, ..plain }, None);
        assert_eq!(five.reordering, Permission::Permitted);
        let idempotent = promise(&Setting { idempotence: true, max_in_flight: 5, ..plain }, None);
        assert_eq!(idempotent.duplicates, Permission::Forbidden);
        assert_eq!(idempotent.reordering, Permission::Forbidden);
    }

    #[test]
    fn contract_sentence_names_its_bounds() {
        let cut = fault(FaultKind::PowerCut, Scope::AllBrokers);
        let sentence = |flush| promise(&Setting::single_broker(Acks::One, flush), Some(&cut)).sentence();
        assert_eq!(sentence(DURABLE), "nothing acknowledged may be lost");
        assert!(sentence(Flush::every_messages(100)).contains("newest 99 records"));
        assert!(sentence(Flush::every_ms(100, 0)).contains("last 100 ms"));
    }
}
