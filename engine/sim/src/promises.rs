//! What the administrator asked for and was promised: topics, settings, where logs begin.

use std::collections::BTreeMap;

/// Whether a topic is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Its creation was asked for, without an answer so far.
    Asked,
    /// Its creation was acknowledged.
    There,
    /// Its deletion was asked for, without an answer so far.
    Leaving,
    /// Its deletion was acknowledged, or it was never created.
    Gone,
}

/// A topic, by number. Two of the same name never exist at once.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) partitions: u32,
    pub(crate) presence: Presence,
    /// Whether a record for it may still be on its way, on a connection that is lost: its name is not used again.
    pub(crate) is_in_doubt: bool,
}

impl Topic {
    /// A topic that is to be created.
    pub(crate) fn new(name: String, partitions: u32) -> Self {
        Topic { name, partitions, presence: Presence::Asked, is_in_doubt: false }
    }
}

/// A setting: what was acknowledged last, and what was asked for without an answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setting {
    pub(crate) acknowledged: Option<String>,
    pub(crate) asked: Vec<String>,
}

impl Setting {
    /// Whether a value may be in effect.
    pub(crate) fn admits(&self, value: &str) -> bool {
        let unset = self.acknowledged.is_none();
        unset || self.acknowledged.as_deref() == Some(value) || self.asked.iter().any(|asked| asked == value)
    }
}

/// Where a log may begin.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Trim {
    /// The highest start that was acknowledged.
    pub(crate) acknowledged: i64,
    /// The highest that was asked for.
    pub(crate) asked: i64,
}

/// Everything that was asked of the broker beside records.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// By topic number.
    pub(crate) topics: Vec<Topic>,
    /// By topic number and name of the setting.
    pub(crate) settings: BTreeMap<(usize, &'static str), Setting>,
    /// The smallest `retention.bytes` that was ever asked for, by topic number; a topic that is not here keeps everything.
    pub(crate) retained_bytes: BTreeMap<usize, u64>,
    /// By topic number and partition.
    pub(crate) trims: BTreeMap<(usize, u32), Trim>,
}
