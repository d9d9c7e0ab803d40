//! A data directory of ours. The bytes say what checkpoint, journal and segments hold: first fields that fit each other,
//! or do not, under checksums that do; then damage.

use highwater_model::batch::{BatchBuilder, NewRecord, ProducerStamp, stamp};
use highwater_model::compression::Compression;
use highwater_model::{LeaderEpoch, Offset, Timestamp};

use crate::Reached;
use crate::format::{
    Append, BLOCK, GENERATION, Group, JournalFile, NOTHING_MORE, PartitionState, Place, checkpoint, put_id,
};
use crate::source::Source;
use crate::targets::exercise::{self, Files};

/// Most groups of an input: enough for what one can do to another.
const MAX_GROUPS: usize = 12;
const PARTITIONS: i32 = 2;
const TOPIC_ID: [u8; 16] = [1; 16];

pub(crate) fn run(bytes: &[u8]) -> Reached {
    let mut maker = Maker::default();
    exercise::run(maker.directory(&mut Source::new(bytes)))
}

/// Where a partition's log would end if every entry fitted.
#[derive(Debug, Clone, Copy, Default)]
struct End {
    next_offset: u64,
    segment_base: u64,
    position_bytes: u64,
}

#[derive(Default)]
struct Maker {
    ends: [End; PARTITIONS as usize],
    place: Place,
}

impl Maker {
    fn directory(&mut self, source: &mut Source<'_>) -> Files {
        let mut files = base_files();
        let generation = format!("journal/{}/shard-0", hex(&GENERATION));
        let start = self.checkpoints(source, &generation, &mut files);
        self.place = start;
        let mut journal = vec![JournalFile::new(0)];
        for _ in 0..MAX_GROUPS {
            match source.u8() % 8 {
                0 => break,
                1 => journal.push(JournalFile::new(journal.len() as u64)),
                _ => {
                    let group = self.group(source);
                    journal.last_mut().expect("has one").push(&mut self.place, &group);
                }
            }
        }
        for (number, file) in journal.into_iter().enumerate() {
            let mut bytes = file.bytes;
            damage(source, &mut bytes);
            bytes.resize(bytes.len().max(64 << 10), 0);
            files.push((format!("{generation}/journal-{number}"), bytes));
        }
        if source.u8() % 4 == 1 {
            let name = format!("topic-0/{:020}.log", source.number());
            files.push((name, source.rest().to_vec()));
        }
        files
    }

    /// One checkpoint, or two; returns the place of the first.
    fn checkpoints(&mut self, source: &mut Source<'_>, generation: &str, files: &mut Files) -> Place {
        let how = source.u8();
        let (number, place) = if how & 1 == 0 {
            (0, Place::default())
        } else {
            (source.number(), Place { sequence: source.number(), checksum: source.number() })
        };
        let mut body = Vec::new();
        for partition in 0..PARTITIONS {
            let fits = how & 2 == 0;
            let mut field = || if fits { 0 } else { source.number() };
            let state = PartitionState {
                topic_id: TOPIC_ID,
                partition,
                log_start_offset: field(),
                next_offset: field(),
                segment_base: field(),
                position_bytes: field(),
                rest: if how & 4 == 0 { NOTHING_MORE.to_vec() } else { source.piece().to_vec() },
            };
            self.ends[partition as usize] = End {
                next_offset: state.next_offset,
                segment_base: state.segment_base,
                position_bytes: state.position_bytes,
            };
            state.put(&mut body);
        }
        let end_bytes = if how & 8 == 0 { BLOCK as u64 } else { source.number() };
        let mut bytes = checkpoint(number, place, 0, end_bytes, &body);
        if how & 16 != 0 {
            damage(source, &mut bytes);
        }
        files.push((format!("{generation}/checkpoint-0"), bytes));
        let other = if how & 32 != 0 { source.piece().to_vec() } else { Vec::new() };
        files.push((format!("{generation}/checkpoint-1"), other));
        place
    }

    fn group(&mut self, source: &mut Source<'_>) -> Group {
        let how = source.u8();
        let durable_through = if how & 1 == 0 { self.place.sequence } else { source.number() };
        let mut group = Group { durable_through, ..Group::default() };
        for _ in 0..1 + (how >> 1) % 3 {
            self.entry(source, &mut group);
        }
        if how & 0x40 != 0 {
            group.entry_count = source.u8().into();
        }
        group
    }

    fn entry(&mut self, source: &mut Source<'_>, group: &mut Group) {
        let how = source.u8();
        let partition = i32::from(how >> 7);
        let end = self.ends[partition as usize];
        let fits = how & 8 == 0;
        let mut field = |fitting: u64| if fits { fitting } else { source.number() };
        group.entry_count += 1;
        let kind = how % 8;
        match kind {
            1 | 6 | 7 => {
                let append = Append {
                    leader_epoch: 1,
                    segment_base: field(end.segment_base),
                    position_bytes: field(end.position_bytes),
                    base_offset: field(end.next_offset),
                    next_offset: field(end.next_offset.wrapping_add(1)),
                    prefix_bytes: 0,
                };
                self.append(source, append, partition, how, group);
            }
            2 => {
                put_id(&mut group.entries, kind, TOPIC_ID, partition);
                let cut = End {
                    segment_base: field(end.segment_base),
                    position_bytes: field(0),
                    next_offset: field(end.segment_base),
                };
                for field in [cut.segment_base, cut.position_bytes, cut.next_offset] {
                    group.entries.extend(field.to_be_bytes());
                }
                self.ends[partition as usize] = cut;
            }
            3 => {
                put_id(&mut group.entries, kind, TOPIC_ID, partition);
                let next_base = field(end.next_offset);
                for field in [field(end.segment_base), field(end.position_bytes), next_base] {
                    group.entries.extend(field.to_be_bytes());
                }
                self.ends[partition as usize] = End { segment_base: next_base, position_bytes: 0, ..end };
            }
            4 => {
                put_id(&mut group.entries, kind, TOPIC_ID, partition);
                group.entries.extend(field(end.next_offset).to_be_bytes());
            }
            5 => {
                // Another topic's partition, which has no directory.
                put_id(&mut group.entries, kind, [9; 16], partition);
            }
            _ => group.entries.extend(source.piece()),
        }
    }

    /// One batch, or bytes that are none.
    fn append(
        &mut self,
        source: &mut Source<'_>,
        mut append: Append,
        partition: i32,
        how: u8,
        group: &mut Group,
    ) {
        let mut payload = Vec::new();
        if how & 0x10 != 0 {
            payload.extend(source.piece());
            append.prefix_bytes = u32::try_from(payload.len()).expect("short");
        }
        if how & 0x20 == 0 {
            payload.extend(batch(append.base_offset, 1 + usize::from(source.u8()) * 16));
        } else {
            payload.extend(source.piece());
        }
        let batches = payload.len() as u64 - u64::from(append.prefix_bytes);
        if how & 0x40 == 0 {
            put_id(&mut group.entries, 1, TOPIC_ID, partition);
            append.put(&mut group.entries, &payload);
        } else {
            let gap = source.piece();
            put_id(&mut group.entries, 6, TOPIC_ID, partition);
            append.put(&mut group.entries, &payload);
            group.entries.extend(u16::try_from(gap.len()).expect("short").to_be_bytes());
            group.payload.extend(gap);
        }
        group.payload.extend(payload);
        self.ends[partition as usize] = End {
            next_offset: append.next_offset & 0x7fff_ffff_ffff,
            segment_base: append.segment_base,
            position_bytes: append
                .position_bytes
                .wrapping_add(u64::from(append.prefix_bytes))
                .wrapping_add(batches),
        };
    }
}

/// A batch of one record of `size` bytes; an offset that no batch can have is none.
pub(crate) fn batch(base_offset: u64, size: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None);
    let value = vec![7; size];
    builder.push(&NewRecord { timestamp: Timestamp(7), value: Some(&value), ..NewRecord::default() });
    let mut batch = builder.build(ProducerStamp::NONE).expect("a batch").to_vec();
    stamp(&mut batch, Offset(base_offset.cast_signed()), LeaderEpoch(1));
    batch
}

/// Changes a few bytes.
pub(crate) fn damage(source: &mut Source<'_>, bytes: &mut [u8]) {
    for _ in 0..source.u8() % 4 {
        let at = usize::from(source.u16()) * 3;
        let value = source.u8() | 1;
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= value;
        }
    }
}

fn base_files() -> Files {
    let id = highwater_model::TopicId::from_bytes(TOPIC_ID);
    let mut files = vec![
        ("meta.properties".to_owned(), b"version=1\ncluster.id=c\nnode.id=0\nhighwater.journal=1\n".to_vec()),
        ("journal/current".to_owned(), hex(&GENERATION).into_bytes()),
    ];
    for partition in 0..PARTITIONS {
        let metadata = format!("version: 0\ntopic_id: {id}");
        files.push((format!("topic-{partition}/partition.metadata"), metadata.into_bytes()));
    }
    files
}

fn hex(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // An empty checkpoint; group after group, each: not the end, how, entries; no damage.
    let appends = [&[0][..], &[2, 0, 1, 9], &[2, 0, 1, 200], &[2, 0, 0x81, 30], &[0, 0, 0]].concat();
    let rolls =
        [&[0][..], &[2, 2, 1, 9, 3], &[2, 0, 1, 4], &[2, 0, 4], &[1], &[2, 0, 1, 7], &[0, 0, 0]].concat();
    let cuts = [&[0][..], &[2, 0, 1, 9], &[2, 0, 2], &[2, 0, 1, 4], &[0, 0, 0]].concat();
    let rotten =
        [&[0][..], &[2, 0, 1, 9], &[2, 0, 1, 9], &[2, 0, 1, 9], &[0], &[1, 0x07, 0x00, 0xff]].concat();
    let stray = [&[0][..], &[2, 0, 1, 9], &[2, 0, 5], &[0, 0, 0]].concat();
    vec![appends, rolls, cuts, rotten, stray, segment(0), segment(1)]
}

/// A checkpoint that says that one batch lies in the first partition's segment, no groups, and that segment; the batch's
/// last byte is changed by `flip`.
fn segment(flip: u8) -> Vec<u8> {
    let mut batch = batch(0, 9);
    let size = u8::try_from(batch.len()).expect("short");
    *batch.last_mut().expect("not empty") ^= flip;
    let head: [&[u8]; 4] = [&[2], &[0, 1, 0, size], &[0; 4], &[0, 0, 1, 0]];
    [&head.concat()[..], &batch].concat()
}
