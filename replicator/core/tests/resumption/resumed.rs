//! A primary goes on where the last session ended, or compares everything.

use std::time::Duration;

use replicator_core::action::{Action, CloseReason};
use replicator_core::event::{Event, NamespaceChange};
use replicator_core::ids::{FileKind, Sequence};
use replicator_core::resume::{Beginning, Held, StreamId, Why};
use replicator_core::wire::body::Ack;
use replicator_core::wire::header::{Kind, VERSION_FLAGS as VERSION, VERSION_MIN};

use super::driven::*;

#[test]
fn what_did_not_change_does_not_travel() {
    let mut driven = Driven::mirrored();
    driven.reopen(driven.queued);
    assert_eq!(driven.beginning(), Some(Beginning::Resumed));
    assert_eq!(driven.asked.kinds.first(), Some(&Kind::ResumeBegin));
    let useful = |kind: &&Kind| !matches!(kind, Kind::ResumeBegin | Kind::KeepAlive | Kind::ResyncEnd);
    assert_eq!(driven.asked.kinds.iter().find(useful), None);
    assert!(driven.is_mirrored());
}

#[test]
fn what_changed_meanwhile_travels_and_nothing_else() {
    let mut driven = Driven::mirrored();
    let held = driven.cut();
    driven.write(3);
    driven.tell(Event::AttributesChanged { file: id(5) });
    driven.create(4, 6);
    driven.open(VERSION, Some(held));
    driven.run();
    assert_eq!(driven.asked.listed, set([4]));
    assert_eq!(driven.asked.read, set([3, 6]), "{:?}", driven.asked);
    assert_eq!(driven.asked.attributes, set([3, 4, 5, 6]));
    assert!(driven.is_mirrored());
}

#[test]
fn what_was_sent_and_is_not_confirmed_is_sent_again() {
    let mut driven = Driven::mirrored();
    driven.write(2);
    driven.fall_silent();
    assert_eq!(driven.node.snapshot().in_flight_bytes, 2);
    driven.reopen(driven.queued);
    assert_eq!((driven.asked.read, driven.asked.listed), (set([2]), set([])));
}

/// A file was made, and the frame that says so is lost, or only the word that it arrived.
fn a_made_file_in_doubt(arrived: bool, acknowledged: bool) -> Driven {
    let mut driven = Driven::mirrored();
    let before = driven.queued;
    driven.mute = true;
    driven.create(4, 6);
    driven.pass();
    assert!(driven.queued > before);
    let received = if arrived { driven.queued } else { before };
    if acknowledged {
        let ack = Ack { received, applied: before, synced: before };
        driven.reply(Kind::Ack, Sequence(0), ack.encode());
    }
    driven.reopen(received);
    assert_eq!(driven.beginning(), Some(Beginning::Resumed));
    driven
}

#[test]
fn an_operation_that_did_not_arrive_is_told_by_a_list() {
    let driven = a_made_file_in_doubt(false, false);
    assert_eq!((&driven.asked.listed, &driven.asked.read), (&set([4]), &set([6])));
    assert!(driven.is_mirrored());
}

#[test]
fn an_operation_that_may_have_arrived_is_told_by_a_list() {
    assert_eq!(a_made_file_in_doubt(true, false).asked.listed, set([4]));
}

#[test]
fn an_operation_that_is_known_to_have_arrived_is_not_told_again() {
    let driven = a_made_file_in_doubt(true, true);
    assert_eq!((&driven.asked.listed, &driven.asked.read), (&set([]), &set([6])));
    assert!(driven.is_mirrored());
}

#[test]
fn a_number_that_was_given_to_a_new_file_meanwhile_is_sent_whole() {
    let mut driven = Driven::mirrored();
    let held = driven.cut();
    driven.lists.insert(ROOT, vec![(2, FileKind::Regular), (4, FileKind::Directory)]);
    driven.log(NamespaceChange::Unlinked { parent: id(ROOT), file: id(3), last: true });
    driven.tell(Event::FileForgotten { file: id(3) });
    driven.create(4, 3);
    driven.open(VERSION, Some(held));
    driven.run();
    assert_eq!((&driven.asked.listed, &driven.asked.read), (&set([ROOT, 4]), &set([3])));
    assert!(driven.is_mirrored());
}

#[test]
fn a_list_without_an_answer_is_taken_again() {
    let mut driven = Driven::mirrored();
    let before = driven.queued;
    driven.mute = true;
    driven.lists.entry(4).or_default().push((6, FileKind::Regular));
    driven.tell(Event::DirectoryChanged { directory: id(4) });
    driven.pass();
    driven.pass();
    assert!(driven.queued > before);
    driven.reopen(before);
    assert_eq!((&driven.asked.listed, &driven.asked.digested), (&set([4]), &set([5, 6])));
    assert!(driven.is_mirrored());
}

#[test]
fn lost_events_are_made_up_for_in_the_next_session() {
    let mut driven = Driven::mirrored();
    let held = driven.cut();
    driven.tell(Event::CaptureLost { file: id(2) });
    driven.tell(Event::CaptureLost { file: id(4) });
    driven.tell(Event::DirectoryChanged { directory: id(ROOT) });
    driven.open(VERSION, Some(held));
    driven.run();
    assert_eq!(driven.beginning(), Some(Beginning::Resumed));
    assert_eq!((&driven.asked.listed, &driven.asked.digested), (&set([ROOT, 4]), &set([2, 5])));
    assert!(driven.is_mirrored());
}

#[test]
fn a_stream_of_which_nothing_arrived_changes_nothing() {
    let mut driven = Driven::mirrored();
    let held = driven.cut();
    driven.create(4, 6);
    for _ in 0..3 {
        driven.open(VERSION, Some(held));
        driven.fall_silent();
        assert!(driven.asked.kinds.contains(&Kind::Namespace), "the list was sent");
        driven.tell(Event::SessionLost { session: driven.session });
    }
    driven.open(VERSION, Some(held));
    driven.run();
    assert_eq!(driven.beginning(), Some(Beginning::Resumed));
    assert_eq!(driven.asked.listed, set([4]));
    // Of the file that was there before, the end: the lists were sent, and not answered.
    assert_eq!(driven.asked.read, set([5, 6]));
    assert!(driven.is_mirrored());
}

#[test]
fn in_doubt_everything_is_compared() {
    type Ending = fn(&mut Driven) -> (u16, Option<Held>);
    let cases: [(Why, Ending); 6] = [
        (Why::NothingHeld, |_| (VERSION, None)),
        (Why::OtherStream, |driven| {
            let stream = StreamId { incarnation: [8; 16], number: driven.session.0 };
            (VERSION, Some(Held { stream, received: driven.queued }))
        }),
        (Why::Position, |driven| {
            let received = Sequence(driven.queued.0 + 1);
            (VERSION, Some(Held { stream: stream(driven.session.0), received }))
        }),
        (Why::Untold, |driven| {
            driven.tell(Event::Untold { lasting: false });
            (VERSION, Some(Held { stream: stream(driven.session.0), received: driven.queued }))
        }),
        (Why::Unable, |driven| {
            driven.tell(Event::Untold { lasting: true });
            (VERSION, Some(Held { stream: stream(driven.session.0), received: driven.queued }))
        }),
        (Why::Unable, |_| (VERSION_MIN, None)),
    ];
    for (why, ending) in cases {
        let mut driven = Driven::mirrored();
        let (version, held) = ending(&mut driven);
        driven.tell(Event::SessionLost { session: driven.session });
        driven.open(version, held);
        driven.run();
        assert_eq!(driven.beginning(), Some(Beginning::Compared(why)));
        assert_eq!(driven.asked.kinds.first(), Some(&Kind::ResyncBegin));
        assert_eq!((&driven.asked.listed, &driven.asked.digested), (&set([ROOT, 4]), &set([2, 3, 5])));
        assert!(driven.is_mirrored(), "{why:?}");
    }
}

#[test]
fn after_a_failure_of_the_peer_everything_is_compared() {
    let mut driven = Driven::mirrored();
    let held = Held { stream: stream(driven.session.0), received: driven.queued };
    driven.reply(Kind::Failed, Sequence(5), Vec::new());
    driven.open(VERSION, Some(held));
    driven.run();
    assert_eq!(driven.beginning(), Some(Beginning::Compared(Why::Failed)));
    assert_eq!(driven.asked.digested, set([2, 3, 5]));
}

#[test]
fn a_session_in_the_old_version_cannot_be_gone_on_from() {
    let mut driven = Driven::mirrored_in(VERSION_MIN);
    driven.tell(Event::SessionLost { session: driven.session });
    driven.open(VERSION, None);
    driven.run();
    assert_eq!(driven.beginning(), Some(Beginning::Compared(Why::Unable)));
}

#[test]
fn a_peer_that_does_not_say_what_it_holds_is_given_up() {
    let mut driven = Driven::mirrored();
    driven.tell(Event::SessionLost { session: driven.session });
    driven.mute = true;
    let before = driven.session;
    while driven.session == before {
        driven.pass();
    }
    let session = driven.session;
    driven.tell(Event::SessionOpened { session, version: VERSION });
    let mut closed = false;
    for _ in 0..400 {
        driven.now = driven.now.after(Duration::from_millis(10));
        driven.tell(Event::Tick);
        closed |= driven.actions.iter().any(|action| matches!(action, Action::CloseSession { session: of, reason: CloseReason::PeerSilent } if *of == session));
        driven.actions.clear();
    }
    assert!(closed);
}
