//! The last offset of every key in a part of a log, in bounded memory. Kafka's `SkimpyOffsetMap`.

use ahash::RandomState;
use highwater_model::Offset;

/// Hash of a key, 128 bits wide and under seeds of its own for every pass: two keys with the same hash would be one key, and
/// nobody who chooses keys can look for such a pair.
pub(super) type KeyHash = [u64; 2];

/// Memory of one key.
pub(super) const SLOT_BYTES: usize = size_of::<Slot>();

/// Keys that a map always takes.
const LEAST_KEYS: usize = 1024;

#[derive(Clone, Copy)]
struct Slot {
    hash: KeyHash,
    /// −1 where the slot is free.
    offset: i64,
}

const FREE: Slot = Slot { hash: [0; 2], offset: -1 };

/// Open addressing with linear probing, at most nine tenths full.
pub(super) struct OffsetMap {
    seeds: [RandomState; 2],
    slots: Vec<Slot>,
    keys: usize,
}

impl OffsetMap {
    /// A map of at most `memory_bytes`, and no larger than `expected_keys` need.
    pub(super) fn new(seeds: [RandomState; 2], memory_bytes: usize, expected_keys: usize) -> Self {
        let needed = slots_for(expected_keys.max(LEAST_KEYS));
        let slots = (memory_bytes / SLOT_BYTES).clamp(slots_for(LEAST_KEYS), needed);
        OffsetMap { seeds, slots: vec![FREE; slots], keys: 0 }
    }

    pub(super) fn hash(&self, key: &[u8]) -> KeyHash {
        [self.seeds[0].hash_one(key), self.seeds[1].hash_one(key)]
    }

    /// How many more keys there is room for.
    pub(super) fn room(&self) -> usize {
        (self.slots.len() / 10 * 9).saturating_sub(self.keys)
    }

    /// Grows beyond the bound, for what must fit: a single batch.
    pub(super) fn reserve(&mut self, keys: usize) {
        if keys <= self.room() {
            return;
        }
        let slots = slots_for(self.keys + keys);
        let old = std::mem::replace(&mut self.slots, vec![FREE; slots]);
        self.keys = 0;
        old.into_iter().filter(|slot| slot.offset >= 0).for_each(|slot| self.put(slot.hash, slot.offset));
    }

    /// Notes that the key occurs at `offset`. There must be [`room`](Self::room).
    pub(super) fn put(&mut self, hash: KeyHash, offset: i64) {
        let at = self.find(hash);
        let slot = &mut self.slots[at];
        if slot.offset < 0 {
            self.keys += 1;
        }
        *slot = Slot { hash, offset: offset.max(slot.offset) };
    }

    /// The last offset at which the key occurs, as far as the map knows.
    pub(super) fn last_offset(&self, key: &[u8]) -> Option<Offset> {
        let slot = self.slots[self.find(self.hash(key))];
        (slot.offset >= 0).then_some(Offset(slot.offset))
    }

    /// Index of the key's slot, or of the free one where it goes.
    fn find(&self, hash: KeyHash) -> usize {
        let count = self.slots.len();
        let mut at = usize::try_from(hash[0] % count as u64).expect("an index");
        while self.slots[at].offset >= 0 && self.slots[at].hash != hash {
            at = (at + 1) % count;
        }
        at
    }
}

fn slots_for(keys: usize) -> usize {
    keys.div_ceil(9) * 10 + 10
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(memory_bytes: usize, expected: usize) -> OffsetMap {
        let seeds = [RandomState::with_seeds(1, 2, 3, 4), RandomState::with_seeds(5, 6, 7, 8)];
        OffsetMap::new(seeds, memory_bytes, expected)
    }

    fn put(map: &mut OffsetMap, key: &str, offset: i64) {
        let hash = map.hash(key.as_bytes());
        map.put(hash, offset);
    }

    #[test]
    fn last_offset_of_each_key_is_known_in_whatever_order_they_came() {
        let mut map = map(1 << 20, 5_000);
        for offset in 0..10_000i64 {
            put(&mut map, &format!("key {}", offset % 5_000), offset);
        }
        put(&mut map, "key 7", 3);
        for key in 0..5_000i64 {
            let known = map.last_offset(format!("key {key}").as_bytes());
            assert_eq!(known, Some(Offset(5_000 + key)));
        }
        assert_eq!(map.last_offset(b"another"), None);
    }

    #[test]
    fn memory_is_bounded_and_grows_only_for_what_must_fit() {
        let mut map = map(100 * LEAST_KEYS * SLOT_BYTES, 1);
        assert!(map.room() >= LEAST_KEYS && map.room() < 2 * LEAST_KEYS, "no more than is needed");
        let room = map.room();
        for key in 0..room {
            put(&mut map, &format!("{key}"), 1);
        }
        assert_eq!(map.room(), 0);
        map.reserve(3 * room);
        assert!(map.room() >= 3 * room);
        assert_eq!(map.last_offset(b"0"), Some(Offset(1)), "what it knew is still known");
    }
}
