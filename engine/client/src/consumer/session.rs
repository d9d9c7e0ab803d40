//! Fetch sessions (KIP-227): broker and consumer remember which partitions are fetched, and a request names only what
//! has changed since the last one.
//!
//! ```text
//!   request                            answer
//!   id 0, epoch 0, all partitions  ──▶ id n: a session; id 0: none, all partitions again next time
//!   id n, epoch 1, 2, …, changes   ──▶ partitions with news only
//!   after any error                    from the beginning
//! ```

use std::collections::BTreeMap;

use highwater_model::{LeaderEpoch, Offset, TopicId};

use crate::metadata::Partition;

/// What a request says of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) topic_id: TopicId,
    pub(super) offset: Offset,
    pub(super) leader_epoch: LeaderEpoch,
}

/// First version that has sessions.
const SESSIONS_FROM: i16 = 7;

/// The session with one broker.
#[derive(Debug, Default)]
pub(super) struct FetchSession {
    id: i32,
    /// Of the next request; 0 begins a session.
    epoch: i32,
    partitions: BTreeMap<Partition, Asked>,
}

/// What to put into a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SessionRequest {
    pub(super) id: i32,
    pub(super) epoch: i32,
    pub(super) fetch: Vec<(Partition, Asked)>,
    pub(super) forget: Vec<(Partition, TopicId)>,
}

impl FetchSession {
    /// The request for exactly `wanted`.
    pub(super) fn request(
        &mut self,
        wanted: BTreeMap<Partition, Asked>,
        version: i16,
        enabled: bool,
    ) -> SessionRequest {
        if !enabled || version < SESSIONS_FROM {
            return SessionRequest {
                id: 0,
                epoch: -1,
                fetch: wanted.into_iter().collect(),
                forget: Vec::new(),
            };
        }
        if self.epoch == 0 {
            self.partitions.clone_from(&wanted);
            // An old session is closed by naming it.
            return SessionRequest {
                id: self.id,
                epoch: 0,
                fetch: wanted.into_iter().collect(),
                forget: Vec::new(),
            };
        }
        // A topic that was created again is another one: its old id is forgotten, its new one added.
        let is_gone = |partition: &Partition, asked: &Asked| {
            wanted.get(partition).is_none_or(|wanted| wanted.topic_id != asked.topic_id)
        };
        let forget = (self.partitions.iter())
            .filter(|(partition, asked)| is_gone(partition, asked))
            .map(|(partition, asked)| (*partition, asked.topic_id))
            .collect();
        let fetch = (wanted.iter())
            .filter(|(partition, asked)| self.partitions.get(partition) != Some(asked))
            .map(|(partition, asked)| (*partition, *asked))
            .collect();
        self.partitions = wanted;
        SessionRequest { id: self.id, epoch: self.epoch, fetch, forget }
    }

    /// The answer was without an error of its own.
    pub(super) fn on_answer(&mut self, id: i32) {
        if id == 0 {
            *self = FetchSession::default();
        } else {
            self.id = id;
            self.epoch = self.epoch.checked_add(1).unwrap_or(1);
        }
    }

    /// The request was lost, or the broker does not know the session.
    pub(super) fn reset(&mut self, is_known: bool) {
        let id = if is_known { self.id } else { 0 };
        *self = FetchSession { id, ..FetchSession::default() };
    }
}

#[cfg(test)]
mod tests {
    use highwater_model::PartitionIndex;

    use super::*;
    use crate::metadata::TopicHandle;

    fn wanted(offsets: &[(i32, i64)]) -> BTreeMap<Partition, Asked> {
        (offsets.iter())
            .map(|(index, offset)| {
                let partition = Partition { topic: TopicHandle(0), index: PartitionIndex(*index) };
                let asked =
                    Asked { topic_id: TopicId::NIL, offset: Offset(*offset), leader_epoch: LeaderEpoch(0) };
                (partition, asked)
            })
            .collect()
    }

    fn indexes<T>(list: &[(Partition, T)]) -> Vec<i32> {
        list.iter().map(|(partition, _)| partition.index.0).collect()
    }

    #[test]
    fn request_names_only_what_changed_and_what_is_gone() {
        let mut session = FetchSession::default();
        let first = session.request(wanted(&[(0, 5), (1, 5), (2, 5)]), 17, true);
        assert_eq!((first.id, first.epoch, first.fetch.len()), (0, 0, 3));
        session.on_answer(9);
        let second = session.request(wanted(&[(0, 6), (1, 5), (3, 0)]), 17, true);
        assert_eq!((second.id, second.epoch), (9, 1));
        assert_eq!((indexes(&second.fetch), indexes(&second.forget)), (vec![0, 3], vec![2]));
        session.on_answer(9);
        let third = session.request(wanted(&[(0, 6), (1, 5), (3, 0)]), 17, true);
        assert_eq!((third.epoch, third.fetch.len(), third.forget.len()), (2, 0, 0));
    }

    #[test]
    fn session_begins_anew_after_an_error() {
        let mut session = FetchSession::default();
        session.request(wanted(&[(0, 5)]), 17, true);
        session.on_answer(9);
        session.reset(true);
        let again = session.request(wanted(&[(0, 5)]), 17, true);
        assert_eq!((again.id, again.epoch, again.fetch.len()), (9, 0, 1), "closes the old one");
        session.reset(false);
        let again = session.request(wanted(&[(0, 5)]), 17, true);
        assert_eq!((again.id, again.epoch, again.fetch.len()), (0, 0, 1));
    }

    #[test]
    fn broker_without_a_session_is_told_everything_each_time() {
        let mut session = FetchSession::default();
        for _ in 0..2 {
            let request = session.request(wanted(&[(0, 5)]), 17, true);
            assert_eq!((request.id, request.epoch, request.fetch.len()), (0, 0, 1));
            session.on_answer(0);
        }
        let old = session.request(wanted(&[(0, 5)]), 6, true);
        assert_eq!((old.id, old.epoch), (0, -1));
    }
}
