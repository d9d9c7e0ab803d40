//! How many connections there may be: in all, and from one address.
//!
//! Connections are accepted by every shard, and the limits are the broker's: this is the one thing that shards share
//! besides mailboxes. It is touched when a connection opens and when it closes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The limits, and what is open.
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    max_connections: usize,
    max_per_ip: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    per_ip: BTreeMap<IpAddr, usize>,
}

impl ConnectionLimits {
    pub(crate) fn new(max_connections: usize, max_per_ip: usize) -> Arc<Self> {
        Arc::new(ConnectionLimits { max_connections, max_per_ip, open: Mutex::default() })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Two numbers that are changed together; no panic comes between.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `ip`, or `None` if there is none.
    pub(crate) fn admit(self: &Arc<Self>, ip: IpAddr) -> Option<ConnectionSlot> {
        let mut open = self.open();
        let of_ip = open.per_ip.get(&ip).copied().unwrap_or(0);
        if open.total >= self.max_connections || of_ip >= self.max_per_ip {
            return None;
        }
        open.total += 1;
        open.per_ip.insert(ip, of_ip + 1);
        drop(open);
        Some(ConnectionSlot { limits: Arc::clone(self), ip })
    }
}

/// A connection's place; dropping it makes room.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    limits: Arc<ConnectionLimits>,
    ip: IpAddr,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut open = self.limits.open();
        open.total -= 1;
        if let Some(count) = open.per_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                open.per_ip.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_when_connections_close() {
        let limits = ConnectionLimits::new(3, 2);
        let [a, b] = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        let first = limits.admit(a).expect("room");
        let _second = limits.admit(a).expect("room");
        assert!(limits.admit(a).is_none(), "two from one address");
        let _third = limits.admit(b).expect("room");
        assert!(limits.admit(b).is_none(), "three in all");
        drop(first);
        assert!(limits.admit(b).is_some());
    }
}
