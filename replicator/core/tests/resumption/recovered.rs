//! The peer crashes, and goes on from what it has on record: what was confirmed is not looked at again, what was not is.

use replicator_core::action::DataState;
use replicator_core::event::{Event, NamespaceChange};
use replicator_core::ids::{FileId, FileKind, Generation, Sequence};
use replicator_core::lineage::Lineage;
use replicator_core::recovery::Recovered;
use replicator_core::resume::{Beginning, Held, StreamId, Why};
use replicator_core::reunion::Account;
use replicator_core::wire::body::{Ack, Holding};
use replicator_core::wire::header::{Kind, VERSION};

use super::driven::{Driven, ROOT, id, set, stream};

impl Driven {
    /// The connection is lost, because the peer crashed; it has that stream on record, and these files are not as recorded.
    fn crash(&mut self, on_record: StreamId, odd: &[u64]) {
        self.tell(Event::SessionLost { session: self.session });
        self.come_back(on_record, odd);
    }

    fn come_back(&mut self, stream: StreamId, odd: &[u64]) {
        self.open(VERSION, None);
        let account = Account {
            lineage: Lineage::untagged(Generation(5)),
            data: DataState::UpToDate,
            primary: false,
            crashed: false,
            lost: false,
            marked: false,
        };
        self.reply(Kind::Account, Sequence(0), account.encode());
        let odd: Vec<FileId> = odd.iter().map(|inode| id(*inode)).collect();
        self.reply(Kind::Recovered, Sequence(0), Recovered { stream, odd }.encode());
        let held = Some(Held { stream, received: Sequence(0) });
        let holding = Holding { generation: Generation(5), held };
        self.reply(Kind::Holding, Sequence(0), holding.encode());
        self.run();
    }

    /// All that was sent has arrived; none of it is confirmed.
    fn acknowledge(&mut self) {
        let (received, applied) = (self.queued, self.queued);
        self.reply(Kind::Ack, Sequence(0), Ack { received, applied, synced: Sequence(0) }.encode());
    }

    fn present(&self) -> StreamId {
        stream(self.session.0)
    }
}

#[test]
fn what_was_confirmed_is_not_looked_at_again() {
    let mut driven = Driven::mirrored();
    driven.create(4, 6);
    driven.write(2);
    driven.run();
    driven.crash(driven.present(), &[]);
    assert_eq!(driven.beginning(), Some(Beginning::Recovered));
    assert!(driven.asked.kinds.contains(&Kind::ResumeBegin));
    assert_eq!((&driven.asked.listed, &driven.asked.digested), (&set([]), &set([])));
    assert_eq!(driven.asked.read, set([]));
    assert!(driven.is_mirrored());
}

/// A file was made, which arrived and was applied.
fn a_made_file() -> Driven {
    let mut driven = Driven::mirrored();
    driven.mute = true;
    driven.create(4, 6);
    driven.write(3);
    driven.pass();
    driven.acknowledge();
    for _ in 0..10 {
        driven.pass();
    }
    driven
}

#[test]
fn what_arrived_and_was_not_confirmed_is_told_and_sent_again() {
    let mut driven = a_made_file();
    driven.crash(driven.present(), &[]);
    assert_eq!(driven.beginning(), Some(Beginning::Recovered));
    assert_eq!(driven.asked.listed, set([4]));
    assert!(driven.asked.read.contains(&3));
    assert!(driven.asked.read.contains(&6) || driven.asked.digested.contains(&6));
    assert!(driven.is_mirrored());
}

#[test]
fn a_list_that_was_answered_and_not_confirmed_is_taken_again() {
    let mut driven = Driven::mirrored();
    driven.lists.entry(4).or_default().push((6, FileKind::Regular));
    driven.tell(Event::DirectoryChanged { directory: id(4) });
    // The answer comes with the list; before the next barrier it crashes.
    for _ in 0..3 {
        driven.pass();
    }
    driven.crash(driven.present(), &[6, 4]);
    assert_eq!(driven.beginning(), Some(Beginning::Recovered));
    assert_eq!(driven.asked.listed, set([4]));
    assert!(driven.is_mirrored());
}

/// What is not as recorded is told; whether it follows from what may have been lost.
#[test]
fn what_does_not_follow_from_what_was_lost_has_everything_compared() {
    let cases: [(&[u64], bool); 7] = [
        (&[6], true),
        (&[6, 4], true),
        (&[99], true),
        (&[2], false),
        (&[ROOT], false),
        (&[6, 5], false),
        (&[3], false),
    ];
    for (odd, follows) in cases {
        let mut driven = a_made_file();
        driven.crash(driven.present(), odd);
        let recovered = driven.beginning() == Some(Beginning::Recovered);
        assert_eq!(recovered, follows, "{odd:?}");
        assert!(driven.is_mirrored(), "{odd:?}");
    }
}

#[test]
fn a_file_that_was_moved_may_be_missing() {
    let mut driven = Driven::mirrored();
    driven.mute = true;
    driven.lists.insert(ROOT, vec![(2, FileKind::Regular), (4, FileKind::Directory)]);
    driven.lists.entry(4).or_default().push((3, FileKind::Regular));
    driven.log(NamespaceChange::Renamed {
        old_parent: id(ROOT),
        new_parent: id(4),
        file: id(3),
        other: None,
        other_last: false,
        exchanged: false,
    });
    driven.pass();
    driven.acknowledge();
    driven.pass();
    driven.crash(driven.present(), &[3]);
    assert_eq!(driven.beginning(), Some(Beginning::Recovered));
    assert_eq!(driven.asked.listed, set([ROOT, 4]));
    assert!(driven.is_mirrored());
}

#[test]
fn streams_since_the_last_confirmation_may_be_on_record_and_no_others() {
    let mut driven = Driven::mirrored();
    let first = driven.present();
    driven.tell(Event::SessionLost { session: driven.session });
    driven.open(VERSION, Some(Held { stream: first, received: driven.queued }));
    driven.fall_silent();
    let second = driven.present();
    // Nothing was confirmed in the second one.
    driven.crash(first, &[]);
    assert_eq!(driven.beginning(), Some(Beginning::Recovered));
    assert!(driven.is_mirrored());
    // Now something was.
    for former in [first, second, StreamId { incarnation: [8; 16], number: 1 }] {
        driven.crash(former, &[]);
        assert!(matches!(driven.beginning(), Some(Beginning::Compared(_))), "{former:?}");
        assert!(driven.is_mirrored());
    }
    driven.crash(driven.present(), &[]);
    assert_eq!(driven.beginning(), Some(Beginning::Recovered));
}

#[test]
fn a_primary_that_lost_events_or_a_peer_that_failed_is_not_gone_on_from() {
    let mut driven = Driven::mirrored();
    driven.tell(Event::Untold { lasting: false });
    driven.crash(driven.present(), &[]);
    assert_eq!(driven.beginning(), Some(Beginning::Compared(Why::Untold)));

    let mut driven = Driven::mirrored();
    let present = driven.present();
    driven.reply(Kind::Failed, Sequence(5), Vec::new());
    driven.come_back(present, &[]);
    assert_eq!(driven.beginning(), Some(Beginning::Compared(Why::Failed)));
}
