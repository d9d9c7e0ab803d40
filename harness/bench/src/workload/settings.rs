//! The axes of a grid: what a cell may vary, each value printed as a user of Kafka writes it.

use std::fmt;

pub use highwater_checker::Acks;

/// When a broker flushes (`flush.messages`, `flush.ms`); both absent: never by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flush {
    /// Flush at the append that brings this many messages; with 1, each ack waits for the flush.
    pub messages: Option<u64>,
    /// Flush what is older than this.
    pub ms: Option<u64>,
}

impl Flush {
    /// Left to the operating system.
    pub const NEVER: Flush = Flush { messages: None, ms: None };

    /// `"never"`, or one or both of `flush.messages=N` and `flush.ms=T` with a comma between.
    #[must_use]
    pub fn parse(text: &str) -> Option<Flush> {
        if text == "never" {
            return Some(Flush::NEVER);
        }
        let mut flush = Flush::NEVER;
        for part in text.split(',') {
            let (name, value) = part.trim().split_once('=')?;
            let value: u64 = value.trim().parse().ok().filter(|&value| value > 0)?;
            let slot = match name.trim() {
                "flush.messages" => &mut flush.messages,
                "flush.ms" => &mut flush.ms,
                _ => return None,
            };
            if slot.replace(value).is_some() {
                return None;
            }
        }
        Some(flush)
    }
}

impl fmt::Display for Flush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.messages, self.ms) {
            (None, None) => f.write_str("never"),
            (Some(messages), None) => write!(f, "flush.messages={messages}"),
            (None, Some(ms)) => write!(f, "flush.ms={ms}"),
            (Some(messages), Some(ms)) => write!(f, "flush.messages={messages},flush.ms={ms}"),
        }
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The value that `word` stands for.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word {
                    $($word => Some($name::$variant),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $($name::$variant => $word,)+
                })
            }
        }
    };
}

words! {
    /// What happens to the broker in a cell.
    Fault {
        /// Nothing.
        None = "none",
        /// The process dies (SIGKILL); the machine and its page cache live on.
        Kill = "kill",
        /// The machine loses power: page cache and the disk's volatile cache are gone too.
        PowerCut = "power-cut",
        /// The same on a disk that has answered flushes without doing them since the clock started.
        LyingFlush = "lying-flush",
    }
}

impl Fault {
    /// Whether it needs a disk with a power switch.
    #[must_use]
    pub fn cuts_power(self) -> bool {
        matches!(self, Fault::PowerCut | Fault::LyingFlush)
    }
}

words! {
    /// What the instant of a fault is aimed at.
    Aim {
        /// Nothing: an instant drawn from the cell's seed.
        Seeded = "seeded",
        /// A new segment.
        Roll = "roll",
        /// The broker's note of how far its log is recovered.
        Checkpoint = "checkpoint",
        /// A segment that retention takes away.
        Retention = "retention",
        /// The creation of a topic: while the request is out, or once it is answered.
        TopicCreation = "topic-creation",
        /// A broker that was killed, has started again and acknowledges again.
        AfterRestart = "after-restart",
        /// A broker that was killed, has started again and is not ready yet.
        Recovery = "recovery",
    }
}

words! {
    /// What a measured run finds.
    Start {
        /// Memory was touched through the page cache, and a load was served that is not counted.
        Warm = "warm",
        /// Neither: the clock starts with the first record that the broker ever sees.
        Cold = "cold",
    }
}

words! {
    /// What the bytes of a record that are not its identity look like.
    Payload {
        /// Random: nothing on the way can make them smaller.
        Incompressible = "incompressible",
        /// The first half zeros, the second random: a codec makes it about half as large. No text, which would be
        /// compressed further.
        Compressible = "compressible",
    }
}

words! {
    /// Whether records carry a key.
    Key {
        /// No key: the sticky partitioner chooses.
        None = "none",
        /// A key of its own for each record: the hash chooses.
        Unique = "unique",
    }
}

words! {
    /// `compression.type` of the producer.
    CompressionType {
        /// As it is.
        None = "none",
        /// gzip.
        Gzip = "gzip",
        /// Snappy.
        Snappy = "snappy",
        /// LZ4.
        Lz4 = "lz4",
        /// Zstandard.
        Zstd = "zstd",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flush_shown_reads_back_as_itself() {
        for text in ["never", "flush.messages=1", "flush.ms=100", "flush.messages=1000,flush.ms=100"] {
            assert_eq!(Flush::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn nonsense_flush_is_refused() {
        for text in ["", "always", "flush.messages=0", "flush.ms", "flush.ms=1,flush.ms=2", "flush.bytes=3"] {
            assert_eq!(Flush::parse(text), None, "{text}");
        }
    }

    #[test]
    fn words_read_back_as_themselves() {
        for &fault in Fault::ALL {
            assert_eq!(Fault::parse(&fault.to_string()), Some(fault));
        }
        assert_eq!(Fault::parse("earthquake"), None);
        for &aim in Aim::ALL {
            assert_eq!(Aim::parse(&aim.to_string()), Some(aim));
        }
    }
}
