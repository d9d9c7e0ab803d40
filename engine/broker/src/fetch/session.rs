//! Incremental fetch sessions (KIP-227): a client says once which partitions it follows, and from then on only what
//! changes; the broker tells only of partitions that have something new.
//!
//! ```text
//!   session id, epoch of the request      what it is
//!   any, −1                               full fetch, ends the session, begins none
//!   any,  0                               full fetch, ends the session, begins one
//!   id,   n > 0                           incremental: n must be the session's epoch, which is then one higher
//! ```
//!
//! A session belongs to the shard of its connection: ids of different shards never coincide, and a session that is asked
//! for on another shard is not found there, upon which the client begins anew. Either a session is remembered whole, or
//! the client is told session 0, which is none.
//!
//! Bounded: sessions by `max.incremental.fetch.session.cache.slots`, partitions of all of them by
//! `max.incremental.fetch.session.cache.partitions`, and of each by `fetch.session.max.partitions`. When there is no free
//! slot or no room for its partitions, Kafka's rules decide who makes room: a session that was idle for
//! `min.incremental.fetch.session.eviction.ms`, else one that is that old and has fewer partitions than the new one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use highwater_io::MonoTime;
use highwater_model::TopicId;
use highwater_protocol::ErrorCode;
use highwater_protocol::fetch_response::FetchedPartition;

use crate::config::FetchConfig;

/// How a fetch names a topic: by name up to version 12, by id from version 13 on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TopicKey {
    Name(Arc<str>),
    Id(TopicId),
}

/// A partition as a fetch names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartitionKey {
    pub(crate) topic: TopicKey,
    pub(crate) partition: i32,
}

/// No topic's name is longer.
const LONGEST_NAME_BYTES: usize = 249;

impl PartitionKey {
    /// As how many partitions it counts: unknown topics are remembered too, and their names may be of any length.
    fn weight(&self) -> usize {
        match &self.topic {
            TopicKey::Name(name) => 1 + name.len() / (LONGEST_NAME_BYTES + 1),
            TopicKey::Id(_) => 1,
        }
    }
}

/// What a fetch asks of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartitionFetch {
    pub(crate) fetch_offset: i64,
    pub(crate) current_leader_epoch: i32,
    pub(crate) last_fetched_epoch: i32,
    pub(crate) max_bytes: i32,
}

/// Partitions with what is asked of each, in the order in which they are read.
pub(crate) type FetchList = Vec<(PartitionKey, PartitionFetch)>;

/// Gathers a [`FetchList`]. A partition that is named more than once counts once, in the place of the first and with what
/// the last one asks, as in Kafka: a request could otherwise ask for one partition a quarter of a million times.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    places: BTreeMap<PartitionKey, usize>,
    list: FetchList,
}

impl Gathered {
    pub(crate) fn add(&mut self, key: PartitionKey, fetch: PartitionFetch) {
        match self.places.entry(key) {
            Entry::Occupied(place) => self.list[*place.get()].1 = fetch,
            Entry::Vacant(place) => {
                self.list.push((place.key().clone(), fetch));
                place.insert(self.list.len() - 1);
            }
        }
    }

    pub(crate) fn into_list(self) -> FetchList {
        self.list
    }
}

/// What was last told of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    high_watermark: i64,
    log_start_offset: i64,
}

#[derive(Debug)]
struct CachedPartition {
    key: PartitionKey,
    fetch: PartitionFetch,
    told: Option<Told>,
}

#[derive(Debug)]
struct Session {
    /// Epoch that the next request must have.
    epoch: i32,
    uses_topic_ids: bool,
    created: MonoTime,
    last_used: MonoTime,
    /// Partitions by their place in the order; a partition that gave records moves to the end.
    order: BTreeMap<u64, CachedPartition>,
    places: BTreeMap<PartitionKey, u64>,
    next_place: u64,
    /// Of all partitions.
    weight: usize,
}

impl Session {
    fn new(uses_topic_ids: bool, now: MonoTime) -> Self {
        Session {
            epoch: 1,
            uses_topic_ids,
            created: now,
            last_used: now,
            order: BTreeMap::new(),
            places: BTreeMap::new(),
            next_place: 0,
            weight: 0,
        }
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    fn set(&mut self, key: PartitionKey, fetch: PartitionFetch) {
        match self.places.get(&key).and_then(|place| self.order.get_mut(place)) {
            Some(cached) => cached.fetch = fetch,
            None => {
                self.weight += key.weight();
                self.push(CachedPartition { key, fetch, told: None });
            }
        }
    }

    fn push(&mut self, cached: CachedPartition) {
        self.places.insert(cached.key.clone(), self.next_place);
        self.order.insert(self.next_place, cached);
        self.next_place += 1;
    }

    fn remove(&mut self, key: &PartitionKey) {
        if let Some(place) = self.places.remove(key) {
            self.order.remove(&place);
            self.weight -= key.weight();
        }
    }

    fn list(&self) -> FetchList {
        self.order.values().map(|cached| (cached.key.clone(), cached.fetch)).collect()
    }

    /// Notes what a response tells of a partition, and says whether it has to.
    fn tell(&mut self, key: &PartitionKey, data: &FetchedPartition) -> bool {
        let Some(place) = self.places.get(key).copied() else { return true };
        let Some(cached) = self.order.get_mut(&place) else { return true };
        let now = Told { high_watermark: data.high_watermark, log_start_offset: data.log_start_offset };
        let has_records = data.records.iter().any(|piece| !piece.is_empty());
        let is_error = !data.error_code.is_none();
        let must_tell = has_records || is_error || data.diverging_epoch.is_some() || cached.told != Some(now);
        // After an error everything is told again.
        cached.told = (!is_error).then_some(now);
        if has_records && let Some(cached) = self.order.remove(&place) {
            self.push(cached);
        }
        must_tell
    }
}

/// Sessions of one shard.
#[derive(Debug)]
pub(crate) struct FetchSessions {
    slots: usize,
    eviction: Duration,
    max_partitions: usize,
    max_weight: usize,
    shard: i32,
    shards: i32,
    sessions: BTreeMap<i32, Session>,
    /// Of all sessions.
    weight: usize,
    evicted: u64,
}

/// The session part of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionRequest {
    pub(crate) id: i32,
    pub(crate) epoch: i32,
    pub(crate) uses_topic_ids: bool,
}

/// What a fetch is, as far as sessions go.
#[derive(Debug)]
pub(crate) enum FetchContext {
    /// Everything is told, and nothing is remembered.
    Sessionless,
    /// Everything is told, and remembered if there is room.
    Full,
    /// What changed is told.
    Incremental {
        /// The session.
        id: i32,
    },
}

const FINAL_EPOCH: i32 = -1;
const INITIAL_EPOCH: i32 = 0;

impl FetchSessions {
    pub(crate) fn new(config: &FetchConfig, shard: usize, shards: usize) -> Self {
        FetchSessions {
            slots: config.session_slots,
            eviction: config.session_eviction,
            max_partitions: config.session_max_partitions,
            max_weight: config.session_partitions,
            shard: i32::try_from(shard).unwrap_or(0),
            shards: i32::try_from(shards).unwrap_or(1).max(1),
            sessions: BTreeMap::new(),
            weight: 0,
            evicted: 0,
        }
    }

    /// Number of sessions, and how many ever made room for others.
    pub(crate) fn counts(&self) -> (usize, u64) {
        (self.sessions.len(), self.evicted)
    }

    /// How many partitions the session that `request` goes on with has.
    pub(crate) fn partition_count(&self, request: SessionRequest) -> usize {
        self.sessions.get(&request.id).map_or(0, Session::len)
    }

    /// Begins with a request that asks for `list` and forgets `forgotten`: what it is, and everything that it reads.
    pub(crate) fn begin(
        &mut self,
        request: SessionRequest,
        list: FetchList,
        forgotten: &[PartitionKey],
        now: MonoTime,
    ) -> Result<(FetchContext, FetchList), ErrorCode> {
        if request.epoch == FINAL_EPOCH || request.epoch == INITIAL_EPOCH {
            self.end(request.id);
            let context =
                if request.epoch == FINAL_EPOCH { FetchContext::Sessionless } else { FetchContext::Full };
            return Ok((context, list));
        }
        let session = self.sessions.get_mut(&request.id).ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        if session.epoch != request.epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        if session.uses_topic_ids != request.uses_topic_ids {
            return Err(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
        }
        let before = session.weight;
        for (key, fetch) in list {
            session.set(key, fetch);
        }
        forgotten.iter().for_each(|key| session.remove(key));
        self.weight = self.weight - before + session.weight;
        if session.len() > self.max_partitions || self.weight > self.max_weight {
            self.end(request.id);
            return Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        }
        let list = session.list();
        if list.is_empty() {
            self.end(request.id);
            return Ok((FetchContext::Sessionless, list));
        }
        session.epoch = next_epoch(session.epoch);
        session.last_used = now;
        Ok((FetchContext::Incremental { id: request.id }, list))
    }

    /// Ends with a request: its session id for the response, and which of the partitions the response tells of.
    pub(crate) fn finish(
        &mut self,
        context: &FetchContext,
        request: SessionRequest,
        read: &[(PartitionKey, PartitionFetch, FetchedPartition)],
        now: MonoTime,
        random: &mut dyn FnMut() -> u64,
    ) -> (i32, Vec<bool>) {
        let all = || vec![true; read.len()];
        match context {
            FetchContext::Sessionless => (0, all()),
            FetchContext::Incremental { id } => match self.sessions.get_mut(id) {
                Some(session) => (*id, read.iter().map(|(key, _, data)| session.tell(key, data)).collect()),
                // It made room for another while the fetch waited; the client learns that at its next request.
                None => (*id, all()),
            },
            FetchContext::Full => {
                let is_worth_it = !read.is_empty() && read.len() <= self.max_partitions;
                let weight = read.iter().map(|(key, ..)| key.weight()).sum();
                if !is_worth_it || !self.make_room(read.len(), weight, now) {
                    return (0, all());
                }
                let mut session = Session::new(request.uses_topic_ids, now);
                for (key, fetch, data) in read {
                    session.set(key.clone(), *fetch);
                    session.tell(key, data);
                }
                let id = self.new_id(random);
                self.weight += session.weight;
                self.sessions.insert(id, session);
                (id, all())
            }
        }
    }

    /// A free id of this shard: not 0, and with the shard's number as the remainder by the number of shards.
    fn new_id(&self, random: &mut dyn FnMut() -> u64) -> i32 {
        loop {
            let any = i32::try_from(random() >> 33).unwrap_or(0);
            // The last round of shards may not be whole.
            let Some(id) = (any - any % self.shards).checked_add(self.shard) else { continue };
            if id > 0 && !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }

    fn end(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.weight -= session.weight;
        }
    }

    /// Ends sessions until there is room for one of so many `partitions` with this `weight`; whether there is.
    fn make_room(&mut self, partitions: usize, weight: usize, now: MonoTime) -> bool {
        if weight > self.max_weight {
            return false;
        }
        while self.sessions.len() >= self.slots || self.weight + weight > self.max_weight {
            if !self.evict(partitions, now) {
                return false;
            }
        }
        true
    }

    /// Ends the session that has to make room for one of so many `partitions`, if there is one.
    fn evict(&mut self, partitions: usize, now: MonoTime) -> bool {
        let idle = |session: &Session| now - session.last_used;
        let stalest = self.sessions.iter().max_by_key(|(_, session)| idle(session));
        let evicted = match stalest {
            Some((&id, session)) if idle(session) > self.eviction => Some(id),
            _ => {
                let is_old = |session: &Session| now - session.created > self.eviction;
                let smallest = self
                    .sessions
                    .iter()
                    .filter(|(_, session)| is_old(session))
                    .min_by_key(|(_, session)| session.len());
                smallest.filter(|(_, session)| session.len() < partitions).map(|(&id, _)| id)
            }
        };
        let Some(id) = evicted else { return false };
        self.end(id);
        self.evicted += 1;
        true
    }
}

fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

#[cfg(test)]
mod tests;
