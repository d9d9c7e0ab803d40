use super::*;
use bytes::Bytes;

fn sessions(slots: usize) -> FetchSessions {
    sessions_of_shard(slots, 1)
}

/// Those of one of three shards.
fn sessions_of_shard(slots: usize, shard: usize) -> FetchSessions {
    let config = FetchConfig {
        max_bytes: 1 << 20,
        response_memory_bytes: 1 << 20,
        session_slots: slots,
        session_partitions: 15,
        session_eviction: Duration::from_secs(120),
        session_max_partitions: 10,
    };
    FetchSessions::new(&config, shard, 3)
}

fn at(seconds: u64) -> MonoTime {
    MonoTime::from_nanos(seconds * 1_000_000_000)
}

fn key(partition: i32) -> PartitionKey {
    PartitionKey { topic: TopicKey::Name("t".into()), partition }
}

fn fetch(fetch_offset: i64) -> PartitionFetch {
    PartitionFetch { fetch_offset, current_leader_epoch: -1, last_fetched_epoch: -1, max_bytes: 100 }
}

fn list(partitions: &[i32]) -> FetchList {
    partitions.iter().map(|&partition| (key(partition), fetch(0))).collect()
}

fn data(partition: i32, high_watermark: i64, records: &'static [u8]) -> FetchedPartition {
    FetchedPartition {
        high_watermark,
        log_start_offset: 0,
        records: vec![Bytes::from_static(records)],
        ..FetchedPartition::failed(partition, ErrorCode::NONE)
    }
}

fn request(id: i32, epoch: i32) -> SessionRequest {
    SessionRequest { id, epoch, uses_topic_ids: false }
}

/// A full fetch of `partitions`, at second `now`: the session id.
fn begin_session(sessions: &mut FetchSessions, partitions: &[i32], now: u64) -> i32 {
    let (context, list) =
        sessions.begin(request(0, 0), list(partitions), &[], at(now)).expect("a full fetch");
    let read: Vec<_> =
        list.into_iter().map(|(key, fetch)| (key.clone(), fetch, data(key.partition, 5, b""))).collect();
    let mut seed = now;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed
    };
    sessions.finish(&context, request(0, 0), &read, at(now), &mut random).0
}

/// An incremental fetch whose partitions give `answers`: which of them are told.
fn incremental(
    sessions: &mut FetchSessions,
    request: SessionRequest,
    changed: FetchList,
    answers: &dyn Fn(i32) -> FetchedPartition,
) -> Result<Vec<i32>, ErrorCode> {
    let (context, list) = sessions.begin(request, changed, &[], at(1))?;
    let read: Vec<_> =
        list.into_iter().map(|(key, fetch)| (key.clone(), fetch, answers(key.partition))).collect();
    let (id, told) = sessions.finish(&context, request, &read, at(1), &mut || 0);
    assert_eq!(id, request.id);
    let told = read.iter().zip(told).filter(|(_, told)| *told).map(|((key, ..), _)| key.partition);
    Ok(told.collect())
}

#[test]
fn id_beyond_the_largest_is_drawn_again() {
    // The last round of numbers ends before this shard's.
    let sessions = sessions_of_shard(1, 2);
    let mut drawn = [u64::MAX, 30 << 33].into_iter();
    assert_eq!(sessions.new_id(&mut || drawn.next().expect("two are enough")), 32);
}

#[test]
fn partition_named_twice_counts_once_with_what_was_asked_last() {
    let mut gathered = Gathered::default();
    for (partition, offset) in [(1, 10), (0, 5), (1, 11), (1, 12)] {
        gathered.add(key(partition), fetch(offset));
    }
    assert_eq!(gathered.into_list(), [(key(1), fetch(12)), (key(0), fetch(5))]);
}

#[test]
fn only_what_changed_is_told() {
    let mut sessions = sessions(10);
    let id = begin_session(&mut sessions, &[0, 1, 2], 0);
    assert!(id > 0);
    assert_eq!(id % 3, 1, "ids of other shards are other numbers");
    let unchanged = |partition| data(partition, 5, b"");
    assert_eq!(incremental(&mut sessions, request(id, 1), vec![], &unchanged), Ok(vec![]));
    let one_grew = |partition| data(partition, if partition == 1 { 6 } else { 5 }, b"");
    assert_eq!(incremental(&mut sessions, request(id, 2), vec![], &one_grew), Ok(vec![1]));
    assert_eq!(incremental(&mut sessions, request(id, 3), vec![], &one_grew), Ok(vec![]));
    let one_fails = |partition| match partition {
        2 => FetchedPartition::failed(2, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        other => one_grew(other),
    };
    assert_eq!(incremental(&mut sessions, request(id, 4), vec![], &one_fails), Ok(vec![2]));
    assert_eq!(incremental(&mut sessions, request(id, 5), vec![], &one_fails), Ok(vec![2]));
    assert_eq!(incremental(&mut sessions, request(id, 6), vec![], &one_grew), Ok(vec![2]), "told again");
}

#[test]
fn partition_that_gave_records_goes_to_the_end() {
    let mut sessions = sessions(10);
    let id = begin_session(&mut sessions, &[0, 1, 2], 0);
    let first_has_records = |partition| data(partition, 5, if partition == 0 { b"records" } else { b"" });
    assert_eq!(incremental(&mut sessions, request(id, 1), vec![], &first_has_records), Ok(vec![0]));
    let (_, list) = sessions.begin(request(id, 2), vec![], &[], at(1)).expect("known");
    let order: Vec<i32> = list.iter().map(|(key, _)| key.partition).collect();
    assert_eq!(order, [1, 2, 0]);
}

#[test]
fn request_changes_adds_and_forgets_partitions() {
    let mut sessions = sessions(10);
    let id = begin_session(&mut sessions, &[0, 1], 0);
    let changed = vec![(key(0), fetch(42)), (key(7), fetch(1))];
    let (_, list) = sessions.begin(request(id, 1), changed, &[key(1)], at(1)).expect("known");
    assert_eq!(list, [(key(0), fetch(42)), (key(7), fetch(1))]);
}

#[test]
fn wrong_session_epoch_or_kind_of_name_is_refused() {
    let mut sessions = sessions(10);
    let id = begin_session(&mut sessions, &[0], 0);
    let mut begin = |request| sessions.begin(request, vec![], &[], at(1)).map(drop);
    assert_eq!(begin(request(id + 3, 1)), Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND));
    assert_eq!(begin(request(id, 2)), Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH));
    let by_id = SessionRequest { uses_topic_ids: true, ..request(id, 1) };
    assert_eq!(begin(by_id), Err(ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR));
    assert_eq!(begin(request(id, 1)), Ok(()));
}

#[test]
fn full_fetch_ends_the_session_that_it_names() {
    for epoch in [FINAL_EPOCH, INITIAL_EPOCH] {
        let mut sessions = sessions(10);
        let id = begin_session(&mut sessions, &[0], 0);
        sessions.begin(request(id, epoch), list(&[0]), &[], at(1)).expect("a full fetch");
        assert_eq!(
            sessions.begin(request(id, 1), vec![], &[], at(1)).map(drop),
            Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)
        );
    }
}

#[test]
fn session_without_partitions_ends() {
    let mut sessions = sessions(10);
    let id = begin_session(&mut sessions, &[0], 0);
    let (context, _) = sessions.begin(request(id, 1), vec![], &[key(0)], at(1)).expect("known");
    assert!(matches!(context, FetchContext::Sessionless));
    assert_eq!(sessions.counts().0, 0);
}

#[test]
fn session_is_never_half_remembered() {
    let mut sessions = sessions(10);
    let eleven: Vec<i32> = (0..11).collect();
    assert_eq!(begin_session(&mut sessions, &eleven, 0), 0, "more partitions than a session may have");
    let id = begin_session(&mut sessions, &eleven[..10], 0);
    assert!(id > 0);
    assert_eq!(
        sessions.begin(request(id, 1), list(&[99]), &[], at(1)).map(drop),
        Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)
    );
    assert_eq!(sessions.counts().0, 0);
}

/// A thousand sessions of a hundred thousand partitions each once were within every bound.
#[test]
fn partitions_of_all_sessions_together_are_bounded() {
    let mut sessions = sessions(10);
    let nine: Vec<i32> = (0..9).collect();
    let first = begin_session(&mut sessions, &nine, 0);
    assert_eq!(begin_session(&mut sessions, &nine, 0), 0, "no room for nine more");
    let second = begin_session(&mut sessions, &nine[..6], 0);
    assert!(second > 0);
    assert_eq!(
        sessions.begin(request(second, 1), list(&[99]), &[], at(1)).map(drop),
        Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND),
        "nor may it grow"
    );
    assert!(begin_session(&mut sessions, &nine[..6], 1) > 0, "what it had is free again");
    sessions.begin(request(first, 1), vec![], &[key(0), key(1)], at(1)).expect("known");
    assert!(begin_session(&mut sessions, &nine[..2], 1) > 0, "and what was forgotten");
    assert!(begin_session(&mut sessions, &nine, 200) > 0, "the idle ones go");
}

#[test]
fn names_longer_than_any_topics_count_for_more() {
    let weight = |name: &str| PartitionKey { topic: TopicKey::Name(name.into()), partition: 0 }.weight();
    assert_eq!(weight(&"t".repeat(LONGEST_NAME_BYTES)), 1);
    assert!(weight(&"t".repeat(32_000)) > 100);
}

#[test]
fn full_cache_makes_room_by_kafkas_rules() {
    let mut sessions = sessions(2);
    let small = begin_session(&mut sessions, &[0], 0);
    let large = begin_session(&mut sessions, &[0, 1, 2], 0);
    assert_eq!(begin_session(&mut sessions, &[0, 1], 60), 0, "nobody is old or idle");
    for (id, now) in [(small, 110), (large, 115)] {
        sessions.begin(request(id, 1), vec![], &[], at(now)).expect("known");
    }
    assert_eq!(begin_session(&mut sessions, &[0], 121), 0, "old, not idle, and not smaller");
    assert!(begin_session(&mut sessions, &[0, 1], 122) > 0, "the old one with fewer partitions goes");
    let mut begin = |id| sessions.begin(request(id, 2), vec![], &[], at(123)).map(drop);
    assert_eq!(begin(small), Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND));
    assert_eq!(begin(large), Ok(()));
    assert!(begin_session(&mut sessions, &[0], 243) > 0, "the idle one goes");
    assert_eq!(sessions.counts(), (2, 2));
}
