//! Rules by which a disk misbehaves.

use std::time::Duration;

use crate::time::MonoTime;

/// What of a disk's work a [`Fault`] concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskOp {
    /// Everything.
    Any,
    /// Opening a file that must exist.
    Open,
    /// Opening a file that may be created, and creating a directory.
    Create,
    /// Removing a file or directory.
    Remove,
    /// Renaming; the path is the old one.
    Rename,
    /// Reading a file.
    Read,
    /// Writing a file, durably or not.
    Write,
    /// Flushing a file, and the flush that is part of a durable write.
    Flush,
    /// Making a directory's names durable.
    SyncDirectory,
    /// Reserving space.
    Allocate,
    /// Cutting or extending a file.
    SetLength,
    /// Looking at names, lengths and space, and locking.
    Inspect,
}

impl DiskOp {
    /// All of them, in the order of their declaration.
    pub(crate) const ALL: [DiskOp; 12] = [
        DiskOp::Any,
        DiskOp::Open,
        DiskOp::Create,
        DiskOp::Remove,
        DiskOp::Rename,
        DiskOp::Read,
        DiskOp::Write,
        DiskOp::Flush,
        DiskOp::SyncDirectory,
        DiskOp::Allocate,
        DiskOp::SetLength,
        DiskOp::Inspect,
    ];
}

/// What happens instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultEffect {
    /// It fails with this errno. A write has then written some beginning of its bytes; a flush has marked clean what
    /// it should have written, so that a later one does not write it.
    Errno(i32),
    /// It reports success and does nothing: a flush (of a file, of a directory, or as part of a durable write) that
    /// lies, or a write that is lost. Other operations are not affected.
    Lie,
    /// It takes this much longer.
    Delay(Duration),
}

/// A rule: which operations on which files are hit, how often, and how.
///
/// ```
/// use highwater_io::sim::{DiskOp, Fault, FaultEffect};
/// // The fourth flush of a journal file fails, and only that one.
/// let fault = Fault::new(DiskOp::Flush, FaultEffect::Errno(5)).on("journal").skip(3).times(1);
/// # let _ = fault;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    op: DiskOp,
    effect: FaultEffect,
    path_part: String,
    skip: u64,
    times: u64,
    one_in: u64,
}

impl Fault {
    /// Every operation of kind `op`, from now on.
    #[must_use]
    pub fn new(op: DiskOp, effect: FaultEffect) -> Self {
        Fault { op, effect, path_part: String::new(), skip: 0, times: u64::MAX, one_in: 1 }
    }

    /// Every `op` fails with `EIO`.
    #[must_use]
    pub fn eio(op: DiskOp) -> Self {
        Fault::new(op, FaultEffect::Errno(libc::EIO))
    }

    /// Every flush lies.
    #[must_use]
    pub fn lying_flush() -> Self {
        Fault::new(DiskOp::Flush, FaultEffect::Lie)
    }

    /// Only where the path, as it was opened and from the root, contains `part`.
    #[must_use]
    pub fn on(self, part: impl Into<String>) -> Self {
        Fault { path_part: part.into(), ..self }
    }

    /// Not the first `skip` that match.
    #[must_use]
    pub fn skip(self, skip: u64) -> Self {
        Fault { skip, ..self }
    }

    /// At most `times`.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Fault { times, ..self }
    }

    /// By chance, one in `one_in`.
    #[must_use]
    pub fn one_in(self, one_in: u64) -> Self {
        Fault { one_in: one_in.max(1), ..self }
    }
}

/// Names a rule of a disk, to lift it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultId(pub(crate) u64);

/// When a rule is asked: delays act when an operation begins, everything else when it would be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Begin,
    End,
}

struct Rule {
    id: FaultId,
    fault: Fault,
    matched: u64,
    fired: u64,
    first_fired_at: Option<MonoTime>,
}

#[derive(Default)]
pub(crate) struct Faults {
    rules: Vec<Rule>,
    next_id: u64,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) -> FaultId {
        let id = FaultId(self.next_id);
        self.next_id += 1;
        self.rules.push(Rule { id, fault, matched: 0, fired: 0, first_fired_at: None });
        id
    }

    pub(crate) fn lift(&mut self, id: FaultId) {
        self.rules.retain(|rule| rule.id != id);
    }

    pub(crate) fn lift_all(&mut self) {
        self.rules.clear();
    }

    pub(crate) fn fired(&self, id: FaultId) -> u64 {
        self.rules.iter().find(|rule| rule.id == id).map_or(0, |rule| rule.fired)
    }

    pub(crate) fn first_fired_at(&self, id: FaultId) -> Option<MonoTime> {
        self.rules.iter().find(|rule| rule.id == id).and_then(|rule| rule.first_fired_at)
    }

    /// What happens to an operation, if a rule hits it. `draw` gives a number below its argument.
    pub(crate) fn hit(
        &mut self,
        op: DiskOp,
        path: &str,
        phase: Phase,
        now: MonoTime,
        mut draw: impl FnMut(u64) -> u64,
    ) -> Option<(FaultId, FaultEffect)> {
        for rule in &mut self.rules {
            let fault = &rule.fault;
            let begins = matches!(fault.effect, FaultEffect::Delay(_));
            let concerns = (fault.op == op || fault.op == DiskOp::Any)
                && begins == (phase == Phase::Begin)
                && path.contains(&fault.path_part);
            if !concerns {
                continue;
            }
            rule.matched += 1;
            let due = rule.matched > fault.skip && rule.fired < fault.times;
            if due && (fault.one_in == 1 || draw(fault.one_in) == 0) {
                rule.fired += 1;
                rule.first_fired_at.get_or_insert(now);
                return Some((rule.id, fault.effect));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_hits_after_its_skip_and_as_often_as_it_says() {
        let mut faults = Faults::default();
        let id = faults.add(Fault::eio(DiskOp::Write).on("journal").skip(1).times(2));
        let mut hit = |op, path| faults.hit(op, path, Phase::End, MonoTime::default(), |_| 0).is_some();
        assert!(!hit(DiskOp::Write, "/segment"));
        assert!(!hit(DiskOp::Flush, "/journal"));
        assert!(!hit(DiskOp::Write, "/journal"), "skipped");
        assert!(hit(DiskOp::Write, "/journal"));
        assert!(hit(DiskOp::Write, "/journal"));
        assert!(!hit(DiskOp::Write, "/journal"), "spent");
        assert_eq!(faults.fired(id), 2);
    }
}
