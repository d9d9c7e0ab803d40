//! The replay of a disk's recording, point by point: the power is cut between any two events, and what the medium would
//! hold then becomes an image file.
//!
//! [`crate::replay`] makes one image, from the beginning of the recording; this goes through it once and makes as many as
//! one likes. What survives is drawn as for a strict directory ([`crate::strict`]), of which the medium is one file.

use std::fs::File;
use std::path::Path;

use crate::error::{At, Result};
use crate::fault::CutMode;
use crate::recording::{Action, Event, Recording};
use crate::strict::content::{Content, FileState};
use crate::strict::draw::Draw;

/// A recording of a disk, at a point between two of its events.
pub struct DiskReplay {
    recording: Recording,
    next: Option<Event>,
    medium: FileState,
}

impl DiskReplay {
    /// Opens a recording and stands before its first event.
    pub fn open(path: &Path) -> Result<Self> {
        let mut recording = Recording::open(path)?;
        let mut medium = FileState::default();
        medium.set_len(0, recording.size_bytes());
        medium.flush(0);
        Ok(Self { next: recording.next_event()?, recording, medium })
    }

    /// The event that would be next; none at the end.
    pub fn peek(&self) -> Option<&Event> {
        self.next.as_ref()
    }

    /// Lets the next event happen and gives it.
    pub fn advance(&mut self) -> Result<Option<Event>> {
        let next = self.recording.next_event()?;
        let Some(event) = std::mem::replace(&mut self.next, next) else { return Ok(None) };
        match &event.action {
            Action::Write { offset_bytes, data } => self.medium.write(event.number, *offset_bytes, data),
            Action::Flush => self.medium.flush(event.number),
            Action::FlushLied | Action::FlushFailed => {}
            Action::CacheLost => self.cut_here(CutMode::DropAll),
            Action::Cut(mode) => self.cut_here(*mode),
        }
        Ok(Some(event))
    }

    fn cut_here(&mut self, mode: CutMode) {
        // An OS crash keeps the disk's cache as it is.
        if mode.loses_power() {
            self.medium = FileState::holding(self.survivor(mode));
        }
    }

    /// What would be left were the power cut here.
    pub fn cut(&self, mode: CutMode) -> DiskImage {
        DiskImage { content: self.survivor(mode) }
    }

    fn survivor(&self, mode: CutMode) -> Content {
        let mut numbers = self.medium.losable();
        let first = numbers.next().unwrap_or(0);
        let mut draw = Draw::new(mode, first..numbers.last().unwrap_or(first) + 1);
        let manner = draw.manner();
        self.medium.survivor(&mut draw, manner)
    }
}

/// What a disk holds after a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskImage {
    content: Content,
}

impl DiskImage {
    /// Makes it a sparse file, which must not exist. Nothing is flushed.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        let file = File::create_new(path).at("create the image", path)?;
        self.content.write_to(&file).at("write to the image", path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Grain;
    use crate::medium::Medium;
    use crate::recording::Recorder;

    #[test]
    fn images_hold_what_was_flushed_and_a_subset_of_what_followed() {
        let place = tempfile::tempdir().unwrap();
        let recording = place.path().join("recording");
        let medium = Medium::new(tempfile::tempfile().unwrap(), 1 << 20, 1 << 20).unwrap();
        let mut recorder = Recorder::create(&recording, &medium, 1 << 20).unwrap();
        let write =
            |value, sectors: usize| Action::Write { offset_bytes: 512, data: vec![value; 512 * sectors] };
        for action in [write(1, 64), Action::Flush, write(2, 64), Action::FlushLied] {
            recorder.note(1, &action).unwrap();
        }
        drop(recorder);
        let mut replay = DiskReplay::open(&recording).unwrap();
        while replay.advance().unwrap().is_some() {}
        let mut mixed = 0;
        for (number, mode) in [CutMode::DropAll, CutMode::OsCrash]
            .into_iter()
            .chain((0..20).map(|seed| CutMode::KeepSubset { seed, grain: Some(Grain::Sector) }))
            .enumerate()
        {
            let path = place.path().join(format!("image-{number}"));
            replay.cut(mode).write_to(&path).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!((bytes.len(), &bytes[..512], bytes[65 * 512]), (1 << 20, &[0; 512][..], 0));
            let written = &bytes[512..65 * 512];
            match mode {
                CutMode::DropAll => assert_eq!(written, [1; 64 * 512]),
                CutMode::OsCrash => assert_eq!(written, [2; 64 * 512]),
                _ => mixed += usize::from(written.contains(&1) && written.contains(&2)),
            }
        }
        assert!(mixed > 5, "{mixed} of 20 are torn");
    }
}
