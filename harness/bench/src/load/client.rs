//! The client that drives every broker, in one of its three ways of moving bytes.
//!
//! The core is the same in all of them. `direct` drives it on the producer's own thread, with nothing between the
//! schedule and the socket; `tokio` and `tokio-uring` are the client's adaptors, whose I/O has a thread of its own, as
//! it has in an application.

use std::collections::VecDeque;
use std::fmt;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use highwater_checker::Nanos;
use highwater_client::adaptor::{Backend, IoThread, Producer};
use highwater_client::producer::{AppendError, Delivery, Outcome, ProducerCore, ProducerRecord};
use highwater_client::{MonoTime, ProducerConfig, TopicHandle};

use super::LoadError;
use super::turn::Turner;
use crate::clock::Clock;

/// How the client's bytes move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Driving {
    /// On the producer's own thread, by poll(2).
    #[default]
    Direct,
    /// On a thread of its own, by tokio.
    Tokio,
    /// On a thread of its own, by tokio-uring.
    TokioUring,
}

impl fmt::Display for Driving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Driving::Direct => "direct",
            Driving::Tokio => "tokio",
            Driving::TokioUring => "tokio-uring",
        })
    }
}

/// The outcome of a batch, and when it was known.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) at: Nanos,
    pub(super) tokens: Vec<u64>,
    pub(super) outcome: Outcome,
}

impl Settled {
    fn of(delivery: &Delivery, at: Nanos) -> Self {
        Settled { at, tokens: delivery.tokens.clone(), outcome: delivery.outcome }
    }
}

/// A producer of one topic.
pub(super) struct Client {
    ways: Ways,
    topic: TopicHandle,
    clock: Clock,
    settled: VecDeque<Settled>,
    /// Records taken whose outcome has not come yet.
    outstanding: u64,
}

enum Ways {
    Direct { core: Box<ProducerCore>, turner: Turner },
    Threaded { producer: Option<Producer>, outcomes: Receiver<Settled> },
}

impl Client {
    pub(super) fn start(
        driving: Driving,
        config: ProducerConfig,
        seed: u64,
        topic: &str,
        clock: Clock,
    ) -> Result<Self, LoadError> {
        let backend = match driving {
            Driving::Direct => {
                let mut core = Box::new(ProducerCore::new(config, seed)?);
                let topic = core.topic(topic);
                let ways = Ways::Direct { core, turner: Turner::new(clock) };
                return Ok(Client { ways, topic, clock, settled: VecDeque::new(), outstanding: 0 });
            }
            Driving::Tokio => Backend::Tokio,
            Driving::TokioUring => Backend::Uring,
        };
        // No more outcomes wait here than records are in flight, which buffer.memory bounds.
        let (sender, outcomes) = mpsc::channel();
        let tell = move |delivery: &Delivery| {
            // Nobody listens any more once the load has failed.
            let _ = sender.send(Settled::of(delivery, clock.now()));
        };
        let producer = Producer::start(&IoThread::start(backend)?, config, seed, tell)?;
        let topic = producer.topic(topic);
        let ways = Ways::Threaded { producer: Some(producer), outcomes };
        Ok(Client { ways, topic, clock, settled: VecDeque::new(), outstanding: 0 })
    }

    /// The topic's handle, for records.
    pub(super) fn topic(&self) -> TopicHandle {
        self.topic
    }

    /// Hands a record over, without waiting.
    pub(super) fn append(&mut self, record: &ProducerRecord<'_>) -> Result<(), AppendError> {
        match &mut self.ways {
            Ways::Direct { core, .. } => core.append(record, self.clock.mono()).map(drop)?,
            Ways::Threaded { producer, .. } => match producer {
                Some(producer) => producer.try_send(record).map(drop)?,
                None => return Err(AppendError::Closed),
            },
        }
        self.outstanding += 1;
        Ok(())
    }

    /// Waits for news until `until`, or less.
    pub(super) fn turn(&mut self, until: MonoTime) -> std::io::Result<()> {
        match &mut self.ways {
            Ways::Direct { core, turner } => turner.turn(&mut **core, until)?,
            Ways::Threaded { outcomes, .. } => {
                let left = until.saturating_since(self.clock.mono());
                self.settled.extend(outcomes.recv_timeout(left).ok());
            }
        }
        self.gather();
        Ok(())
    }

    fn gather(&mut self) {
        match &mut self.ways {
            Ways::Direct { core, .. } => {
                while let Some(delivery) = core.pop_delivery() {
                    self.settled.push_back(Settled::of(&delivery, Nanos(delivery.completed_at.0)));
                    core.recycle(delivery);
                }
            }
            Ways::Threaded { outcomes, .. } => self.settled.extend(outcomes.try_iter()),
        }
    }

    /// The next outcome.
    pub(super) fn pop(&mut self) -> Option<Settled> {
        let settled = self.settled.pop_front()?;
        self.outstanding -= settled.tokens.len() as u64;
        Some(settled)
    }

    /// Sends everything so far without lingering.
    pub(super) fn flush(&mut self) {
        match &mut self.ways {
            Ways::Direct { core, .. } => {
                core.flush(self.clock.mono());
            }
            Ways::Threaded { producer, .. } => {
                if let Some(producer) = producer {
                    // Whether it is done, the outcomes tell.
                    let _ = producer.flush(Duration::ZERO);
                }
            }
        }
    }

    /// Whether every record has its outcome.
    pub(super) fn is_drained(&self) -> bool {
        self.outstanding == 0
    }

    /// Gives up on everything that has no outcome. The outcomes then tell what is known.
    pub(super) fn abort(&mut self) {
        match &mut self.ways {
            Ways::Direct { core, .. } => core.abort(),
            Ways::Threaded { producer, .. } => {
                if let Some(producer) = producer.take() {
                    producer.close(Duration::ZERO);
                }
            }
        }
        self.gather();
    }
}
