//! Promises of mailboxes between shards.

use std::time::Duration;

use highwater_io::mailbox::{self, Receiver, ReplySender, Sender};
use highwater_io::{Io, ShardIndex};

use crate::host::Host;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn shards_wake_each_other(host: Host) {
    let (to_second, from_first) = mailbox::channel(1);
    let (to_first, from_second) = mailbox::channel(1);
    let states = vec![(to_second, from_second, true), (to_first, from_first, false)];
    host.run(states, |io, (sender, mut receiver, serves)| async move {
        let play = async {
            // Each waits asleep for the other, in turn.
            for round in 0..2000u32 {
                if serves {
                    sender.send(round).await.expect("the other plays");
                }
                assert_eq!(receiver.recv().await, Some(round));
                if !serves {
                    sender.send(round).await.expect("the other plays");
                }
            }
        };
        io.timeout(PATIENCE, play).await.expect("no wake-up is lost");
    });
}

enum Role {
    Sends(Sender<(usize, u32)>),
    Receives(Receiver<(usize, u32)>),
}

pub(crate) fn many_senders_lose_nothing(host: Host) {
    const SENDERS: usize = 3;
    const MESSAGES: u32 = 5000;
    let (sender, receiver) = mailbox::channel(7);
    let mut states: Vec<Role> = (0..SENDERS).map(|_| Role::Sends(sender.clone())).collect();
    drop(sender);
    states.push(Role::Receives(receiver));
    host.run(states, |io, role| async move {
        let work = async {
            match role {
                Role::Sends(sender) => {
                    for message in 0..MESSAGES {
                        sender.send((io.shard().0, message)).await.expect("the receiver is there");
                    }
                }
                Role::Receives(mut receiver) => {
                    let mut next = [0; SENDERS];
                    while let Some((from, message)) = receiver.recv().await {
                        assert_eq!(message, next[from], "in the order of sending");
                        next[from] += 1;
                    }
                    assert_eq!(next, [MESSAGES; SENDERS]);
                }
            }
        };
        io.timeout(PATIENCE, work).await.expect("no wake-up is lost");
    });
}

type Call = (u32, ReplySender<u32>);

enum Side {
    Asks(Sender<Call>),
    Answers(Receiver<Call>),
}

pub(crate) fn reply_crosses_shards(host: Host) {
    let (sender, receiver) = mailbox::channel(4);
    host.run(vec![Side::Asks(sender), Side::Answers(receiver)], |io, side| async move {
        let work = async {
            match side {
                Side::Asks(sender) => {
                    for question in 0..500 {
                        let (reply_to, reply) = mailbox::oneshot();
                        sender.send((question, reply_to)).await.expect("the other answers");
                        let expected = if question % 3 == 0 { None } else { Some(question * 2) };
                        assert_eq!(reply.await, expected);
                    }
                }
                Side::Answers(mut receiver) => {
                    while let Some((question, reply_to)) = receiver.recv().await {
                        if question % 3 > 0 {
                            reply_to.send(question * 2);
                        }
                    }
                }
            }
        };
        io.timeout(PATIENCE, work).await.expect("no wake-up is lost");
    });
}

pub(crate) fn end_of_a_shard_closes_its_mailbox(host: Host) {
    let (sender, receiver) = mailbox::channel::<u32>(1);
    let ends = |io: &Io| io.shard() == ShardIndex(1);
    host.run(vec![(Some(sender), None), (None, Some(receiver))], move |io, (sender, receiver)| async move {
        if ends(&io) {
            drop(receiver);
            return;
        }
        let sender: Sender<u32> = sender.expect("given to the first shard");
        let fill = async { while sender.send(0).await.is_ok() {} };
        io.timeout(PATIENCE, fill).await.expect("a waiting sender learns of the end");
    });
}
