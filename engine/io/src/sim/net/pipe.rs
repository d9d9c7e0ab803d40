//! One direction of a stream: what is on the wire, and what arrived and was not yet received.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::sim::rng::Chance;
use crate::time::MonoTime;

pub(crate) enum Packet {
    Data(Bytes),
    Fin,
}

#[derive(Default)]
pub(crate) struct Pipe {
    wire: VecDeque<(MonoTime, Packet)>,
    arrived: VecDeque<Bytes>,
    /// Bytes sent and not yet received: what the window bounds.
    outstanding: usize,
    last_arrival: MonoTime,
    /// Whether an event that delivers the first packet is under way.
    pub(crate) moving: bool,
    /// Whether the end of the stream arrived.
    pub(crate) finished: bool,
}

impl Pipe {
    /// Puts a packet on the wire; it does not overtake earlier ones. Returns when the first one is due, if nothing
    /// delivers it yet.
    pub(crate) fn send(&mut self, packet: Packet, arrival: MonoTime) -> Option<MonoTime> {
        if let Packet::Data(bytes) = &packet {
            self.outstanding += bytes.len();
        }
        self.last_arrival = self.last_arrival.max(arrival);
        self.wire.push_back((self.last_arrival, packet));
        self.next_delivery()
    }

    /// When the first packet is due, if nothing delivers it yet; the caller then does.
    pub(crate) fn next_delivery(&mut self) -> Option<MonoTime> {
        let due = self.wire.front().map(|&(at, _)| at).filter(|_| !self.moving)?;
        self.moving = true;
        Some(due)
    }

    pub(crate) fn take_packet(&mut self) -> Option<Packet> {
        self.moving = false;
        self.wire.pop_front().map(|(_, packet)| packet)
    }

    pub(crate) fn arrive(&mut self, bytes: Bytes) {
        self.arrived.push_back(bytes);
    }

    pub(crate) fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    pub(crate) fn room(&self, window: usize) -> usize {
        window.saturating_sub(self.outstanding)
    }

    /// Loses what is on the wire, save the first packets that had left already.
    pub(crate) fn lose_wire(&mut self, chance: &mut Chance) {
        let left = chance.index(self.wire.len() + 1);
        self.wire.truncate(left);
    }

    pub(crate) fn clear_wire(&mut self) {
        self.wire.clear();
    }

    /// Takes up to `limit` bytes that have arrived: as many as there are, or as few as chance will have it.
    pub(crate) fn receive(&mut self, limit: usize, chance: &mut Chance) -> Bytes {
        let available = self.arrived.iter().map(Bytes::len).sum::<usize>().min(limit);
        let count = if chance.coin() { available } else { chance.between(1, available as u64) as usize };
        self.outstanding -= count;
        let first = self.arrived.front_mut().expect("something has arrived");
        if first.len() > count {
            return first.split_to(count);
        }
        let first = self.arrived.pop_front().expect("something has arrived");
        if first.len() == count {
            return first;
        }
        self.gather(&first, count)
    }

    fn gather(&mut self, first: &[u8], count: usize) -> Bytes {
        let mut gathered = BytesMut::with_capacity(count);
        gathered.extend_from_slice(first);
        while gathered.len() < count {
            let next = self.arrived.front_mut().expect("as much was available");
            let part = next.split_to(next.len().min(count - gathered.len()));
            if next.is_empty() {
                self.arrived.pop_front();
            }
            gathered.extend_from_slice(&part);
        }
        gathered.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_pieces_are_the_sent_bytes_in_order() {
        let mut chance = Chance::new(3);
        let mut pipe = Pipe::default();
        let sent: Vec<u8> = (0..=255).collect();
        for piece in sent.chunks(7) {
            pipe.send(Packet::Data(Bytes::copy_from_slice(piece)), MonoTime::default());
        }
        while let Some(Packet::Data(bytes)) = pipe.take_packet() {
            pipe.arrive(bytes);
        }
        let mut received = Vec::new();
        while pipe.has_arrived() {
            received.extend_from_slice(&pipe.receive(50, &mut chance));
        }
        assert_eq!(received, sent);
        assert_eq!(pipe.room(10), 10);
    }

    #[test]
    fn packet_does_not_overtake_an_earlier_one() {
        let mut pipe = Pipe::default();
        let at = MonoTime::from_nanos;
        assert_eq!(pipe.send(Packet::Data(Bytes::from_static(b"a")), at(50)), Some(at(50)));
        assert_eq!(pipe.send(Packet::Fin, at(10)), None, "the first packet is being delivered");
        assert!(matches!(pipe.take_packet(), Some(Packet::Data(_))));
        assert_eq!(pipe.next_delivery(), Some(at(50)));
    }
}
