//! Kafka's compression codecs.
//!
//! A broker stores compressed batches as they came, but looks inside once to be sure that the records are what the
//! header says. Decoding streams: its memory is bounded by the codec's window, not by what the bytes claim to become.
//!
//! | code | codec | framing in a batch |
//! |---|---|---|
//! | 1 | gzip | one gzip member |
//! | 2 | snappy | xerial blocks (`\x82SNAPPY\0`, versions, then length-prefixed blocks), or one raw block |
//! | 3 | lz4 | LZ4 frame |
//! | 4 | zstd | zstd frame |

use std::io::{self, Read, Write};

/// How the records of a batch are compressed: the low three bits of its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy, in xerial's framing.
    Snappy,
    /// LZ4 frame.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Largest decompressed size in bytes of one snappy block, which must be decoded as a whole. Kafka's clients make
/// blocks of 32 KiB, librdkafka one block a batch.
pub const MAX_SNAPPY_BLOCK_BYTES: usize = 128 << 20;

/// No snappy block grows by more: its densest element makes 64 bytes of 3.
const MAX_SNAPPY_RATIO: usize = 22;

/// Largest zstd window accepted, as a power of two: 128 MiB, zstd's own default limit for streaming.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;

impl Compression {
    /// From the low three bits of a batch's attributes.
    #[must_use]
    pub fn from_attributes(attributes: i16) -> Option<Self> {
        Some(match attributes & 0x7 {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Snappy,
            3 => Compression::Lz4,
            4 => Compression::Zstd,
            _ => return None,
        })
    }

    /// Its number in a batch's attributes.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Snappy => 2,
            Compression::Lz4 => 3,
            Compression::Zstd => 4,
        }
    }

    /// Kafka's name for it in `compression.type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }

    /// A reader of the decompressed bytes of `compressed`.
    ///
    /// # Errors
    /// Where the codec's own header is not understood. Damage further on shows when it is read.
    pub fn reader<'a>(self, compressed: &'a [u8]) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Compression::None => Box::new(compressed),
            Compression::Gzip => Box::new(flate2::bufread::GzDecoder::new(compressed)),
            Compression::Snappy => Box::new(SnappyReader::new(compressed)?),
            Compression::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(compressed)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        })
    }

    /// Decompresses all of `compressed`, if it becomes no more than `limit_bytes`.
    ///
    /// # Errors
    /// Damaged input; more than the limit is `FileTooLarge`.
    pub fn decompress(self, compressed: &[u8], limit_bytes: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let read_limit = u64::try_from(limit_bytes).unwrap_or(u64::MAX).saturating_add(1);
        self.reader(compressed)?.take(read_limit).read_to_end(&mut out)?;
        if out.len() > limit_bytes {
            let why = format!("decompressed records exceed {limit_bytes} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        Ok(out)
    }

    /// Compresses `bytes` in the framing that Kafka's clients use. Many times in a row, a [`Compressor`] is cheaper.
    ///
    /// # Errors
    /// Where the codec fails.
    pub fn compress(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        Compressor::new(self)?.compress(bytes)
    }
}

/// Compresses again and again with one codec, and keeps the codec's working memory between: making that costs more than
/// compressing a small batch.
pub struct Compressor {
    codec: Compression,
    level: Option<i32>,
    state: State,
}

enum State {
    None,
    Snappy(Box<snap::raw::Encoder>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Vec<u8>>>),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").field("codec", &self.codec).finish_non_exhaustive()
    }
}

impl Compressor {
    /// A compressor with Kafka's default level.
    ///
    /// # Errors
    /// Where the codec gets no memory.
    pub fn new(codec: Compression) -> io::Result<Self> {
        Compressor::with_level(codec, None)
    }

    /// A compressor with the codec's own kind of level, where it has levels here (gzip and zstd); `None` for Kafka's default.
    ///
    /// # Errors
    /// Where the codec gets no memory.
    pub fn with_level(codec: Compression, level: Option<i32>) -> io::Result<Self> {
        let state = match codec {
            // flate2's encoders cannot be used again, and gzip is slow enough for that not to matter.
            Compression::None | Compression::Gzip => State::None,
            Compression::Snappy => State::Snappy(Box::new(snap::raw::Encoder::new())),
            Compression::Lz4 => State::Lz4(Box::new(lz4_flex::frame::FrameEncoder::new(Vec::new()))),
            Compression::Zstd => {
                let level = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
                State::Zstd(Box::new(zstd::bulk::Compressor::new(level)?))
            }
        };
        Ok(Compressor { codec, level, state })
    }

    /// Its codec.
    #[must_use]
    pub fn codec(&self) -> Compression {
        self.codec
    }

    /// Compresses `bytes` in the framing that Kafka's clients use.
    ///
    /// # Errors
    /// Where the codec fails.
    pub fn compress(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match &mut self.state {
            State::None if self.codec == Compression::Gzip => {
                let level = self.level.and_then(|level| u32::try_from(level).ok());
                let level = level.map_or_else(flate2::Compression::default, flate2::Compression::new);
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(bytes)?;
                encoder.finish()
            }
            State::None => Ok(bytes.to_vec()),
            State::Snappy(encoder) => compress_xerial(encoder, bytes),
            // An encoder that was used before cannot make an empty frame.
            State::Lz4(_) if bytes.is_empty() => {
                let empty = lz4_flex::frame::FrameEncoder::new(Vec::new());
                empty.finish().map_err(io::Error::other)
            }
            State::Lz4(encoder) => {
                encoder.write_all(bytes)?;
                encoder.try_finish().map_err(io::Error::other)?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            State::Zstd(encoder) => encoder.compress(bytes),
        }
    }
}

fn compress_xerial(encoder: &mut snap::raw::Encoder, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(XERIAL_HEADER_BYTES + bytes.len() / 2);
    out.extend_from_slice(XERIAL_MAGIC);
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    for block in bytes.chunks(XERIAL_BLOCK_BYTES) {
        let at = out.len() + 4;
        out.resize(at + snap::raw::max_compress_len(block.len()), 0);
        let written = encoder.compress(block, &mut out[at..]).map_err(io::Error::other)?;
        let len = i32::try_from(written).map_err(io::Error::other)?;
        out[at - 4..at].copy_from_slice(&len.to_be_bytes());
        out.truncate(at + written);
    }
    Ok(out)
}

/// Decodes snappy block by block.
struct SnappyReader<'a> {
    /// What is left after the current block.
    rest: &'a [u8],
    framing: SnappyFraming,
    block: Vec<u8>,
    consumed: usize,
    decoder: snap::raw::Decoder,
}

#[derive(PartialEq, Eq)]
enum SnappyFraming {
    Xerial,
    Raw,
}

impl<'a> SnappyReader<'a> {
    fn new(compressed: &'a [u8]) -> io::Result<Self> {
        let (framing, rest) = if compressed.starts_with(XERIAL_MAGIC) {
            let rest = compressed.get(XERIAL_HEADER_BYTES..).ok_or(io::ErrorKind::UnexpectedEof)?;
            (SnappyFraming::Xerial, rest)
        } else {
            (SnappyFraming::Raw, compressed)
        };
        Ok(SnappyReader { rest, framing, block: Vec::new(), consumed: 0, decoder: snap::raw::Decoder::new() })
    }

    fn next_block(&mut self) -> io::Result<()> {
        let block = match self.framing {
            SnappyFraming::Raw => std::mem::take(&mut self.rest),
            SnappyFraming::Xerial => {
                let (len, rest) = self.rest.split_first_chunk::<4>().ok_or(io::ErrorKind::UnexpectedEof)?;
                let len = usize::try_from(i32::from_be_bytes(*len)).map_err(io::Error::other)?;
                let (block, rest) = rest.split_at_checked(len).ok_or(io::ErrorKind::UnexpectedEof)?;
                self.rest = rest;
                block
            }
        };
        let len = snap::raw::decompress_len(block).map_err(io::Error::other)?;
        if len > MAX_SNAPPY_BLOCK_BYTES || len > block.len().saturating_mul(MAX_SNAPPY_RATIO) {
            let why = format!("a snappy block of {} bytes claims to become {len}", block.len());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        self.block.resize(len, 0);
        let written = self.decoder.decompress(block, &mut self.block).map_err(io::Error::other)?;
        self.block.truncate(written);
        self.consumed = 0;
        Ok(())
    }
}

impl Read for SnappyReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.consumed == self.block.len() {
            if self.rest.is_empty() {
                return Ok(0);
            }
            self.next_block()?;
        }
        let count = out.len().min(self.block.len() - self.consumed);
        out[..count].copy_from_slice(&self.block[self.consumed..self.consumed + count]);
        self.consumed += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    #[test]
    fn every_codec_survives_the_round_trip() {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i / 7 % 251) as u8).collect();
        for codec in ALL {
            let compressed = codec.compress(&bytes).expect("compresses");
            assert_eq!(codec.decompress(&compressed, bytes.len()).expect("decompresses"), bytes, "{codec:?}");
            assert!(codec.decompress(&compressed, bytes.len() - 1).is_err(), "{codec:?} above the limit");
            assert_eq!(Compression::from_attributes(codec.code()), Some(codec));
        }
    }

    #[test]
    fn compressor_is_used_again_without_a_trace_of_what_was_before() {
        for codec in ALL {
            let mut compressor = Compressor::new(codec).expect("made");
            for len in [100_000usize, 0, 10, 300_000, 64] {
                let bytes: Vec<u8> = (0..len).map(|i| (i / 3 % 250) as u8).collect();
                let compressed = compressor.compress(&bytes).expect("compresses");
                assert_eq!(
                    codec.decompress(&compressed, len).expect("decompresses"),
                    bytes,
                    "{codec:?} {len}"
                );
            }
        }
    }

    #[test]
    fn raw_snappy_is_understood() {
        let raw =
            snap::raw::Encoder::new().compress_vec(b"one block as librdkafka writes it").expect("compresses");
        let out = Compression::Snappy.decompress(&raw, 1000).expect("decompresses");
        assert_eq!(out, b"one block as librdkafka writes it");
    }

    #[test]
    fn damaged_input_is_an_error() {
        let bytes = vec![7u8; 10_000];
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let mut compressed = codec.compress(&bytes).expect("compresses");
            compressed.truncate(compressed.len() / 2);
            assert!(codec.decompress(&compressed, 1 << 20).is_err(), "{codec:?}");
        }
    }
}
