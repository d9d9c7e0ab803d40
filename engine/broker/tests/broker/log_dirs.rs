//! Several log directories: one is gone, the others serve; what was in it is neither made anew nor lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use highwater_protocol::ErrorCode;
use highwater_protocol::messages::delete_topics_request::DeleteTopicState;
use highwater_protocol::messages::describe_log_dirs_response::DescribeLogDirsResult;
use highwater_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use highwater_protocol::messages::metadata_response::MetadataResponsePartition;
use highwater_protocol::messages::{
    BrokerId, DeleteTopicsRequest, DescribeLogDirsRequest, ListOffsetsRequest, MetadataRequest,
};

use crate::client::{Client, TestBroker, batch, fetch_request, topic_name};

const STORAGE_ERROR: ErrorCode = ErrorCode::KAFKA_STORAGE_ERROR;

fn log_dirs(broker: &TestBroker) -> BTreeMap<String, DescribeLogDirsResult> {
    let request = DescribeLogDirsRequest::default().with_topics(None);
    let response = broker.connect().call(4, &request);
    let name = |result: &DescribeLogDirsResult| {
        Path::new(&*result.log_dir).file_name().expect("has a name").to_string_lossy().into_owned()
    };
    response.results.into_iter().map(|result| (name(&result), result)).collect()
}

/// Which partitions of a topic a directory has.
fn partitions_in(broker: &TestBroker, dir: &str, topic: &str) -> Vec<i32> {
    let dirs = log_dirs(broker);
    let of_topic = dirs[dir].topics.iter().filter(|found| *found.name.0 == *topic);
    of_topic.flat_map(|topic| topic.partitions.iter().map(|partition| partition.partition_index)).collect()
}

/// The directory of each partition of a topic.
fn places(broker: &TestBroker, dirs: &[&str], topic: &str) -> BTreeMap<i32, String> {
    let of_dir = |dir: &&str| {
        let dir = (*dir).to_owned();
        partitions_in(broker, &dir, topic).into_iter().map(move |partition| (partition, dir.clone()))
    };
    dirs.iter().flat_map(of_dir).collect()
}

fn produce(broker: &TestBroker, topic: &str, partition: i32, value: &str) -> ErrorCode {
    ErrorCode(broker.connect().produce(topic, partition, -1, batch(&[value])).error_code)
}

fn fetch_error(broker: &TestBroker, topic: &str, partition: i32) -> ErrorCode {
    let response = broker.connect().call(11, &fetch_request(&[(topic, partition, 0)]));
    ErrorCode(response.responses[0].partitions[0].error_code)
}

fn list_error(client: &mut Client, topic: &str, partition: i32) -> ErrorCode {
    let partition = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(-1);
    let topic = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
    ErrorCode(client.call(5, &request).topics[0].partitions[0].error_code)
}

fn metadata(broker: &TestBroker, topic: &str) -> Vec<MetadataResponsePartition> {
    let request = MetadataRequest::default().with_topics(None);
    let response = broker.connect().call(9, &request);
    let is_wanted = |found: &_| {
        let found: &highwater_protocol::messages::metadata_response::MetadataResponseTopic = found;
        found.name.as_ref().is_some_and(|name| *name.0 == *topic)
    };
    response.topics.into_iter().find(is_wanted).expect("exists").partitions
}

/// A broker with a topic of four partitions in the directories a and b, two in each, and a record in each.
fn broker_with_topic() -> TestBroker {
    let broker = TestBroker::start_in(&["a", "b"], &[]);
    broker.create_topic("t", 4, &[]);
    for partition in 0..4 {
        assert_eq!(produce(&broker, "t", partition, &format!("p{partition}")), ErrorCode::NONE);
    }
    assert_eq!(partitions_in(&broker, "a", "t"), [0, 2]);
    assert_eq!(partitions_in(&broker, "b", "t"), [1, 3]);
    broker
}

fn all_is_there(broker: &TestBroker) {
    for partition in 0..4 {
        let values = broker.connect().fetch_values("t", partition, 0);
        assert_eq!(values[0], format!("p{partition}"));
    }
}

/// b is not there: its partitions answer with an error, those in a are served.
fn b_is_offline(broker: &TestBroker) {
    for partition in [1, 3] {
        assert_eq!(produce(broker, "t", partition, "x"), STORAGE_ERROR);
        assert_eq!(fetch_error(broker, "t", partition), STORAGE_ERROR);
        assert_eq!(list_error(&mut broker.connect(), "t", partition), STORAGE_ERROR);
    }
    for partition in [0, 2] {
        assert_eq!(produce(broker, "t", partition, "more"), ErrorCode::NONE);
        assert_eq!(broker.connect().fetch_values("t", partition, 0)[0], format!("p{partition}"));
    }
    let partitions = metadata(broker, "t");
    for partition in &partitions {
        let is_offline = [1, 3].contains(&partition.partition_index);
        let expected = if is_offline { (5, -1, 1) } else { (0, 1, 0) };
        let told = (partition.error_code, partition.leader_id.0, partition.offline_replicas.len());
        assert_eq!(told, expected, "{partition:?}");
    }
    let dirs = log_dirs(broker);
    assert_eq!((ErrorCode(dirs["b"].error_code), dirs["b"].topics.len()), (STORAGE_ERROR, 0));
    assert_eq!((ErrorCode(dirs["a"].error_code), dirs["a"].topics.len()), (ErrorCode::NONE, 1));
    assert!(dirs["a"].total_bytes > 0 && dirs["a"].usable_bytes > 0);
}

#[test]
fn partitions_are_spread_over_directories_and_stay_there() {
    let mut broker = broker_with_topic();
    let names = ["a", "b", "c"];
    broker.stop();
    broker.use_dirs(&names);
    broker.try_restart().expect("a directory may be added");
    all_is_there(&broker);
    // The emptiest comes first, then all in turn.
    broker.create_topic("u", 5, &[]);
    let count = |dir| partitions_in(&broker, dir, "u").len();
    assert_eq!((count("a"), count("b"), count("c")), (1, 1, 3));
    let before = (places(&broker, &names, "t"), places(&broker, &names, "u"));
    broker.restart();
    assert!(broker.broker().started().recovery.was_clean);
    assert_eq!((places(&broker, &names, "t"), places(&broker, &names, "u")), before);
    // The order of directories does not matter, if the one with the metadata log is named.
    broker.stop();
    broker.use_dirs(&["c", "b", "a"]);
    let refused = broker.try_restart().expect_err("the metadata log is not in c");
    assert!(refused.contains("the metadata log is in another one"), "{refused}");
    broker.set("metadata.log.dir", broker.data_dir().join("a").to_str().expect("text").to_owned().as_str());
    broker.try_restart().expect("starts");
    assert_eq!((places(&broker, &names, "t"), places(&broker, &names, "u")), before);
    all_is_there(&broker);
}

#[test]
fn directory_that_is_no_directory_is_offline_and_comes_back_whole() {
    let mut broker = broker_with_topic();
    broker.stop();
    let (b, aside) = (broker.data_dir().join("b"), broker.data_dir().join("aside"));
    fs::rename(&b, &aside).expect("can be moved");
    fs::write(&b, "no directory").expect("is written");
    broker.try_restart().expect("starts with the other");
    b_is_offline(&broker);
    // New partitions go where something serves.
    broker.create_topic("u", 2, &[]);
    assert_eq!(partitions_in(&broker, "a", "u"), [0, 1]);
    broker.stop();
    fs::remove_file(&b).expect("is there");
    fs::rename(&aside, &b).expect("can be moved");
    broker.try_restart().expect("starts with both");
    all_is_there(&broker);
    assert_eq!(broker.connect().fetch_values("t", 1, 0), ["p1"], "nothing that was refused is there");
    assert_eq!(produce(&broker, "t", 1, "again"), ErrorCode::NONE);
    assert!(metadata(&broker, "t").iter().all(|partition| partition.offline_replicas.is_empty()));
}

#[test]
fn directory_that_is_empty_now_is_not_taken_for_a_new_one() {
    let mut broker = broker_with_topic();
    let (b, aside) = (broker.data_dir().join("b"), broker.data_dir().join("aside"));
    for is_there in [true, false] {
        broker.stop();
        fs::rename(&b, &aside).expect("can be moved");
        if is_there {
            fs::create_dir(&b).expect("is made");
        }
        // However its name is written.
        for name in ["b", "b/", "./b"] {
            broker.use_dirs(&["a", name]);
            broker.try_restart().expect("starts with the other");
            b_is_offline(&broker);
            broker.stop();
        }
        broker.use_dirs(&["a", "b"]);
        assert!(!b.join("meta.properties").exists() && !b.join("t-1").exists(), "nothing is put there");
        fs::remove_dir_all(&b).expect("is there");
        fs::rename(&aside, &b).expect("can be moved");
        broker.try_restart().expect("starts with both");
        all_is_there(&broker);
        assert_eq!(produce(&broker, "t", 3, "again"), ErrorCode::NONE);
    }
}

#[test]
fn empty_directory_is_used_once_nothing_of_the_old_one_is_wanted() {
    let mut broker = broker_with_topic();
    broker.stop();
    let b = broker.data_dir().join("b");
    fs::rename(&b, broker.data_dir().join("aside")).expect("can be moved");
    broker.try_restart().expect("starts with the other");
    delete_topic(&broker, "t");
    broker.restart_unclean();
    broker.create_topic("u", 2, &[]);
    assert_eq!(places(&broker, &["a", "b"], "u").len(), 2);
    assert_eq!(partitions_in(&broker, "b", "u").len(), 1);
}

fn delete_topic(broker: &TestBroker, name: &str) {
    let topic = DeleteTopicState::default().with_name(Some(topic_name(name)));
    let request = DeleteTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    assert_eq!(broker.connect().call(6, &request).responses[0].error_code, 0);
}

/// Found while this was written: a later deletion that was complete made the metadata forget the earlier one.
#[test]
fn topic_that_is_deleted_while_a_directory_is_away_stays_deleted() {
    let mut broker = broker_with_topic();
    broker.create_topic("other", 1, &[]);
    broker.stop();
    let (b, aside) = (broker.data_dir().join("b"), broker.data_dir().join("aside"));
    fs::rename(&b, &aside).expect("can be moved");
    broker.try_restart().expect("starts with the other");
    delete_topic(&broker, "t");
    delete_topic(&broker, "other");
    broker.create_topic("t", 4, &[]);
    assert_eq!(partitions_in(&broker, "a", "t"), [0, 1, 2, 3]);
    assert_eq!(produce(&broker, "t", 1, "new"), ErrorCode::NONE);
    broker.stop();
    fs::remove_dir_all(&b).expect("is there");
    fs::rename(&aside, &b).expect("can be moved");
    broker.try_restart().expect("starts with both");
    assert_eq!(broker.connect().fetch_values("t", 1, 0), ["new"]);
    assert!(!b.join("t-1").exists() && !b.join("t-3").exists(), "what was deleted is removed");
}

#[test]
fn directory_that_is_no_longer_configured_keeps_its_partitions() {
    let mut broker = broker_with_topic();
    broker.stop();
    broker.use_dirs(&["a"]);
    broker.try_restart().expect("starts with one");
    assert_eq!(produce(&broker, "t", 0, "more"), ErrorCode::NONE);
    assert_eq!(produce(&broker, "t", 1, "x"), STORAGE_ERROR);
    assert_eq!(metadata(&broker, "t")[1].error_code, ErrorCode::LEADER_NOT_AVAILABLE.0);
    broker.stop();
    broker.use_dirs(&["a", "b"]);
    broker.try_restart().expect("starts with both");
    all_is_there(&broker);
    // The other one alone has no metadata, and is no broker's directory.
    broker.stop();
    broker.use_dirs(&["b"]);
    let refused = broker.try_restart().expect_err("not whole");
    assert!(refused.contains("the metadata log is in another one"), "{refused}");
    broker.use_dirs(&["b", "a"]);
    let refused = broker.try_restart().expect_err("in the wrong order");
    assert!(refused.contains("the metadata log is in another one"), "{refused}");
}

#[test]
fn one_directory_becomes_several_without_a_move() {
    let mut broker = TestBroker::start_in(&["a"], &[]);
    broker.create_topic("t", 2, &[]);
    assert_eq!(produce(&broker, "t", 1, "p1"), ErrorCode::NONE);
    let meta = fs::read_to_string(broker.data_dir().join("a/meta.properties")).expect("is there");
    assert!(!meta.contains("metadata"), "one directory looks as it always did: {meta}");
    broker.stop();
    broker.use_dirs(&["a", "b"]);
    broker.try_restart().expect("starts with two");
    assert_eq!(broker.connect().fetch_values("t", 1, 0), ["p1"]);
    broker.create_topic("u", 2, &[]);
    assert_eq!(partitions_in(&broker, "b", "u"), [0, 1], "a has two already");
    assert_eq!(partitions_in(&broker, "a", "t"), [0, 1]);
    broker.restart();
    assert_eq!(broker.connect().fetch_values("t", 1, 0), ["p1"]);
}

#[test]
fn broker_does_not_start_without_the_directory_of_the_metadata_log() {
    let mut broker = broker_with_topic();
    broker.stop();
    let (a, aside) = (broker.data_dir().join("a"), broker.data_dir().join("aside"));
    fs::rename(&a, &aside).expect("can be moved");
    let refused = broker.try_restart().expect_err("an empty one is not the same");
    assert!(refused.contains("belongs to the metadata log in another log directory"), "{refused}");
    fs::remove_dir_all(&a).expect("is there");
    fs::write(&a, "no directory").expect("is written");
    let refused = broker.try_restart().expect_err("no directory");
    assert!(refused.contains("Not a directory") || refused.contains("File exists"), "{refused}");
    fs::remove_file(&a).expect("is there");
    fs::rename(&aside, &a).expect("can be moved");
    broker.try_restart().expect("starts");
    all_is_there(&broker);
}

#[test]
fn first_start_needs_every_directory() {
    let broker = TestBroker::start(&[]);
    fs::write(broker.data_dir().join("b"), "no directory").expect("is written");
    let mut config = highwater_broker::BrokerConfig::for_data_dir(broker.data_dir().join("a"));
    let dirs = ["a", "b"].map(|name| broker.data_dir().join(name).display().to_string());
    config.set("log.dirs", &dirs.join(",")).expect("valid");
    let refused = highwater_broker::Broker::start(&config).expect_err("refused").to_string();
    assert!(refused.contains("the first start needs every log directory"), "{refused}");
}

#[test]
fn directories_that_are_not_apart_are_refused() {
    let mut broker = broker_with_topic();
    broker.stop();
    let root = broker.data_dir().to_owned();
    let mut refusal = |names: &[&str]| {
        broker.use_dirs(names);
        broker.try_restart().expect_err("refused")
    };
    assert!(refusal(&["a", "b", "a"]).contains("is named twice in log.dirs"));
    std::os::unix::fs::symlink(root.join("a"), root.join("link")).expect("is made");
    assert!(refusal(&["a", "b", "link"]).contains("is named twice in log.dirs"));
    assert!(refusal(&["a", "b", "a/inner"]).contains("lies in another log directory"));
    assert!(refusal(&["a", "b", "link/inner/deeper"]).contains("lies in another log directory"));
    fs::create_dir(root.join("b/inner")).expect("is made");
    std::os::unix::fs::symlink(root.join("b/inner"), root.join("elsewhere")).expect("is made");
    assert!(refusal(&["a", "b", "elsewhere"]).contains("lies in another log directory"));
    fs::remove_dir(root.join("b/inner")).expect("is there");
    copy_dir(&root.join("b"), &root.join("copy"));
    assert!(refusal(&["a", "b", "copy"]).contains("one of them is a copy"));
    broker.use_dirs(&["a", "b"]);
    broker.try_restart().expect("starts");
    all_is_there(&broker);
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).expect("is made");
    for entry in fs::read_dir(from).expect("is there") {
        let entry = entry.expect("is read");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("has one").is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("is copied");
        }
    }
}

#[test]
fn directories_of_other_clusters_and_nodes_are_refused() {
    let mut broker = broker_with_topic();
    broker.stop();
    for (line, wrong, says) in [
        ("cluster.id=", "AAAAAAAAAAAAAAAAAAAAAA", "belongs to cluster"),
        ("node.id=", "7", "belongs to node 7"),
        ("highwater.metadata.directory.id=", "AAECAwQFBgcICQoLDA0ODw", "another log directory"),
    ] {
        let path = broker.data_dir().join("b/meta.properties");
        let before = fs::read_to_string(&path).expect("is there");
        let changed = before.lines().map(|known| {
            if known.starts_with(line) { format!("{line}{wrong}\n") } else { format!("{known}\n") }
        });
        fs::write(&path, changed.collect::<String>()).expect("is written");
        let refused = broker.try_restart().expect_err("refused");
        assert!(refused.contains(says), "{refused}");
        fs::write(&path, before).expect("is written");
    }
    broker.try_restart().expect("starts");
    all_is_there(&broker);
}

#[test]
fn partition_that_is_in_two_directories_is_refused() {
    let mut broker = broker_with_topic();
    broker.stop();
    copy_dir(&broker.data_dir().join("b/t-1"), &broker.data_dir().join("a/t-1"));
    let refused = broker.try_restart().expect_err("refused");
    assert!(refused.contains("one of them is a copy"), "{refused}");
    fs::remove_dir_all(broker.data_dir().join("a/t-1")).expect("is there");
    broker.try_restart().expect("starts");
    all_is_there(&broker);
}

/// The start that refused it once made it part of the directory, which then brought it back whenever it was moved out.
#[test]
fn copy_of_a_partition_without_records_can_be_moved_out() {
    let mut broker = TestBroker::start_in(&["a", "b"], &[]);
    broker.create_topic("t", 2, &[]);
    broker.stop();
    let (a, b) = (broker.data_dir().join("a/t-1"), broker.data_dir().join("b/t-1"));
    copy_dir(&b, &a);
    for _ in 0..2 {
        let refused = broker.try_restart().expect_err("refused");
        assert!(refused.contains("one of them is a copy"), "{refused}");
    }
    fs::remove_dir_all(&a).expect("is there");
    broker.try_restart().expect("starts");
    assert_eq!(produce(&broker, "t", 1, "p1"), ErrorCode::NONE);
    assert!(!a.exists());
}

#[test]
fn copy_of_a_partition_does_not_stand_in_for_one_that_is_away() {
    let mut broker = TestBroker::start_in(&["a", "b"], &[]);
    broker.create_topic("t", 2, &[]);
    let (b, aside) = (broker.data_dir().join("b"), broker.data_dir().join("aside"));
    let copy = broker.data_dir().join("a/t-1");
    copy_dir(&b.join("t-1"), &copy);
    assert_eq!(produce(&broker, "t", 1, "p1"), ErrorCode::NONE);
    broker.stop();
    fs::rename(&b, &aside).expect("can be moved");
    broker.try_restart().expect("starts with the other");
    assert_eq!(produce(&broker, "t", 1, "x"), STORAGE_ERROR);
    assert_eq!(fetch_error(&broker, "t", 1), STORAGE_ERROR);
    broker.stop();
    fs::remove_dir_all(&b).expect("is there");
    fs::rename(&aside, &b).expect("can be moved");
    let refused = broker.try_restart().expect_err("refused");
    assert!(refused.contains("one of them is a copy"), "{refused}");
}

/// Disks that are mounted by their order change places when one is missing.
#[test]
fn directory_at_the_place_of_another_is_served_there() {
    let names = ["a", "b", "c"];
    let mut broker = TestBroker::start_in(&names, &[]);
    broker.create_topic("t", 3, &[]);
    for partition in 0..3 {
        assert_eq!(produce(&broker, "t", partition, &format!("p{partition}")), ErrorCode::NONE);
    }
    let at = |broker: &TestBroker, name: &str| broker.data_dir().join(name);
    for (lost, moved, there) in [("c", "b", 1), ("b", "c", 2)] {
        broker.stop();
        fs::rename(at(&broker, lost), at(&broker, "aside")).expect("can be moved");
        fs::rename(at(&broker, moved), at(&broker, lost)).expect("can be moved");
        for _ in 0..2 {
            broker.try_restart().expect("starts without the one that is lost");
            assert_eq!(partitions_in(&broker, lost, "t"), [there]);
            assert_eq!(produce(&broker, "t", there, "more"), ErrorCode::NONE);
            assert_eq!(broker.connect().fetch_values("t", there, 0)[0], format!("p{there}"));
            assert_eq!(produce(&broker, "t", 3 - there, "x"), STORAGE_ERROR);
            broker.stop();
        }
        fs::remove_dir_all(at(&broker, moved)).expect("is there");
        fs::rename(at(&broker, lost), at(&broker, moved)).expect("can be moved");
        fs::rename(at(&broker, "aside"), at(&broker, lost)).expect("can be moved");
        broker.try_restart().expect("starts with all");
        for partition in 0..3 {
            let values = broker.connect().fetch_values("t", partition, 0);
            assert_eq!(values[0], format!("p{partition}"));
        }
    }
}

#[test]
fn metadata_log_may_have_a_directory_of_its_own() {
    let mut broker = TestBroker::start_in(&["a", "b"], &[]);
    broker.stop();
    let meta = broker.data_dir().join("meta").display().to_string();
    broker.use_dirs(&["c", "d"]);
    broker.set("metadata.log.dir", &meta);
    broker.try_restart().expect("starts");
    broker.create_topic("t", 4, &[]);
    assert_eq!(places(&broker, &["c", "d", "meta"], "t").len(), 4);
    assert!(partitions_in(&broker, "meta", "t").is_empty());
    for partition in 0..4 {
        assert_eq!(produce(&broker, "t", partition, &format!("p{partition}")), ErrorCode::NONE);
    }
    broker.restart();
    all_is_there(&broker);
}
