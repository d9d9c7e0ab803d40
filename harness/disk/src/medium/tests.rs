use super::*;

const MIB: u64 = 1 << 20;

fn medium(cache_limit_bytes: u64) -> Medium {
    Medium::new(tempfile::tempfile().unwrap(), MIB, cache_limit_bytes).unwrap()
}

fn write_sector(medium: &mut Medium, sector: u64, value: u8) {
    medium.write(sector * 512, &[value; 512]).unwrap();
}

/// The first byte of each sector, after checking that the sector is whole.
fn sectors(medium: &Medium) -> Vec<u8> {
    let mut all = vec![0; MIB as usize];
    medium.read(0, &mut all).unwrap();
    all.chunks(512)
        .map(|sector| {
            assert!(sector.iter().all(|&byte| byte == sector[0]), "a sector is torn");
            sector[0]
        })
        .collect()
}

#[test]
fn read_after_write_returns_the_cache_over_the_image() {
    let mut medium = medium(MIB);
    write_sector(&mut medium, 3, 1);
    medium.flush().unwrap();
    write_sector(&mut medium, 4, 2);
    let mut out = vec![0; 3 * 512];
    medium.read(2 * 512, &mut out).unwrap();
    assert_eq!([out[0], out[512], out[1024]], [0, 1, 2]);
}

#[test]
fn write_across_blocks_not_aligned_to_a_block_reads_back() {
    let mut medium = medium(MIB);
    let data: Vec<u8> = (0..40 * 512).map(|i| (i / 512) as u8 + 1).collect();
    medium.write(5 * 512, &data).unwrap();
    let mut out = vec![0; data.len()];
    medium.read(5 * 512, &mut out).unwrap();
    assert_eq!(out, data);
    assert_eq!(medium.flush().unwrap(), 40);
    medium.read(5 * 512, &mut out).unwrap();
    assert_eq!(out, data);
}

#[test]
fn cut_drop_all_returns_the_medium_to_its_last_flush() {
    let mut medium = medium(MIB);
    (0..64).for_each(|sector| write_sector(&mut medium, sector, 1));
    medium.flush().unwrap();
    let durable = sectors(&medium);
    (0..128).for_each(|sector| write_sector(&mut medium, sector, 2));
    let remains = medium.cut(CutMode::DropAll).unwrap();
    assert_eq!(remains, Remains { dropped_sectors: 128, ..Remains::default() });
    assert_eq!(sectors(&medium), durable);
    assert_eq!(medium.dirty_sectors(), 0);
}

#[test]
fn cut_keep_subset_same_seed_same_medium_other_seed_other_medium() {
    let after = |seed| {
        let mut medium = medium(MIB);
        (0..800).for_each(|sector| write_sector(&mut medium, sector, 1));
        let remains = medium.cut(CutMode::KeepSubset { seed, grain: Some(Grain::Sector) }).unwrap();
        let kept = sectors(&medium).iter().filter(|&&value| value == 1).count() as u64;
        assert_eq!((remains.kept_sectors, remains.dropped_sectors), (kept, 800 - kept));
        assert!(kept > 0 && kept < 800, "seed {seed} kept {kept} of 800");
        sectors(&medium)
    };
    assert_eq!(after(1), after(1));
    assert_ne!(after(1), after(2));
}

#[test]
fn cut_keep_subset_overwritten_sectors_keep_a_version_since_the_flush() {
    let mut seen = [false; 5];
    for seed in 0..40 {
        let mut medium = medium(MIB);
        (0..100).for_each(|sector| write_sector(&mut medium, sector, 1));
        medium.flush().unwrap();
        for version in 2..5 {
            (0..100).for_each(|sector| write_sector(&mut medium, sector, version));
        }
        medium.cut(CutMode::KeepSubset { seed, grain: None }).unwrap();
        for &value in &sectors(&medium)[..100] {
            assert!((1..5).contains(&value), "seed {seed}: version {value} never was");
            seen[usize::from(value)] = true;
        }
    }
    assert_eq!(seen, [false, true, true, true, true], "every version can survive");
}

#[test]
fn cut_keep_subset_by_write_tears_no_write() {
    for seed in 0..50 {
        let mut medium = medium(MIB);
        for write in 0..16 {
            medium.write(write * 16 * 512, &[write as u8 + 1; 16 * 512]).unwrap();
        }
        medium.cut(CutMode::KeepSubset { seed, grain: Some(Grain::Write) }).unwrap();
        for write in sectors(&medium).chunks(16) {
            assert!(write.iter().all(|&value| value == write[0]), "seed {seed} tore {write:?}");
        }
    }
}

#[test]
fn cut_shorn_damages_durable_neighbours_only_within_a_block_being_written() {
    let (mut shorn, mut damaged) = (0, 0);
    for seed in 0..50 {
        let mut medium = medium(MIB);
        medium.write(0, &vec![1; MIB as usize]).unwrap();
        medium.flush().unwrap();
        (0..100).for_each(|block| write_sector(&mut medium, block * 8, 2));
        let remains = medium.cut(CutMode::Shorn { seed }).unwrap();
        shorn += remains.shorn_blocks;
        damaged += remains.damaged_sectors;
        let mut all = vec![0; MIB as usize];
        medium.read(0, &mut all).unwrap();
        let (touched, untouched) = all.split_at(100 * 4096);
        assert!(untouched.iter().all(|&byte| byte == 1), "seed {seed} reached beyond its blocks");
        let bad = touched.chunks(512).filter(|s| s.iter().any(|&b| b != s[0])).count() as u64;
        assert_eq!(bad, remains.damaged_sectors, "seed {seed}");
    }
    assert!(shorn > 0 && damaged > 0, "no seed sheared anything");
}

#[test]
fn cut_os_crash_keeps_the_cache() {
    let mut medium = medium(MIB);
    write_sector(&mut medium, 9, 7);
    medium.cut(CutMode::OsCrash).unwrap();
    assert_eq!(medium.dirty_sectors(), 1);
    assert_eq!(sectors(&medium)[9], 7);
}

#[test]
fn write_beyond_the_cache_limit_destages_and_loses_no_byte() {
    let mut medium = medium(64 * 1024);
    (0..2048).for_each(|sector| write_sector(&mut medium, sector, (sector % 251) as u8));
    assert!(medium.cache.len() <= 16, "{} blocks in a cache of 16", medium.cache.len());
    assert_eq!(medium.destaged_sectors() + medium.dirty_sectors(), 2048);
    let expected: Vec<u8> = (0..2048u64).map(|sector| (sector % 251) as u8).collect();
    assert_eq!(sectors(&medium), expected);
}

#[test]
fn write_not_of_whole_sectors_within_the_medium_is_not_addressable() {
    let medium = medium(MIB);
    assert!(medium.is_addressable(MIB - 512, 512));
    for (offset, length) in [(1, 512), (0, 511), (MIB - 512, 1024), (u64::MAX - 511, 512)] {
        assert!(!medium.is_addressable(offset, length), "{offset} + {length}");
    }
}

#[test]
fn dirty_runs_every_mask_covers_exactly_its_bits() {
    for mask in 0..=u8::MAX {
        let mut covered = 0u8;
        for (first, count) in dirty_runs(mask) {
            (first..first + count).for_each(|bit| covered |= 1 << bit);
        }
        assert_eq!(covered, mask);
    }
}
