//! A node that an operator keeps from becoming active.

use super::super::Controller;
use super::super::posture::Step;
use super::super::types::{
    Action, Cause, Command, Event, MirrorView, Readiness, Refusal, Standing, Verdict, Word,
};
use super::lab::{Lab, alone, config, says, whole};
use crate::ids::{Term, Time};

/// Which step, and whether it ends well.
type Ended = (fn(&Step) -> bool, bool);

const ON: Command = Command::Standby { on: true };
const OFF: Command = Command::Standby { on: false };

/// The peer is active with a term, and this node its mirror.
fn follow(lab: &mut Lab, term: u64) {
    let mut report = says(whole(term));
    report.active = Some(Term(term));
    lab.peer(report);
    lab.copy = whole(term);
    lab.mirror(true, true, false);
}

fn asks(lab: &Lab) -> bool {
    lab.out.iter().any(|action| matches!(action, Action::AskArbiter(_)))
}

#[test]
fn an_active_node_leaves_to_its_peer_and_stays_its_mirror() {
    let mut lab = Lab::primary();
    assert_eq!(lab.command(ON), Ok(()));
    assert!(lab.has_step(|step| *step == Step::Drain), "{:?}", lab.out);
    let report = lab.it.report();
    assert_eq!((report.active, report.able, report.started), (None, false, true));
    assert!(lab.copy.yields().is_some(), "it left the right to be active: {:?}", lab.copy);
    follow(&mut lab, 3);
    let report = lab.it.report();
    assert_eq!(
        (report.word, report.readiness, report.cause),
        (Word::Secondary, Readiness::Transient, Cause::OnStandby)
    );
}

#[test]
fn it_takes_nothing_over_until_an_operator_says_so() {
    for end in [OFF, Command::Start] {
        let mut lab = Lab::secondary();
        assert_eq!(lab.command(ON), Ok(()));
        lab.part(false);
        for _ in 0..20 {
            lab.wait(1000);
        }
        assert!(!asks(&lab), "{:?}", lab.out);
        let report = lab.it.report();
        assert_eq!(
            (report.active, report.readiness),
            (None, Readiness::Transient),
            "it still receives if somebody comes"
        );
        assert_eq!(lab.command(end), Ok(()));
        assert!(lab.it.report().able);
        lab.wait(1000);
        assert!(asks(&lab), "{end:?}: {:?}", lab.out);
    }
}

#[test]
fn it_lasts_over_a_restart_of_the_node() {
    let standing = Standing { started: true, was_active: true, standby: true };
    let mut lab = Lab::new(config(), true, alone(1));
    lab.it = Controller::new(config(), standing, Time(0));
    lab.tell(Event::Able(true));
    lab.mirror(false, false, false);
    lab.wait(60_000);
    let report = lab.it.report();
    assert_eq!((report.active, report.word, report.readiness), (None, Word::Waiting, Readiness::NotReady));
    assert_eq!(report.cause, Cause::OnStandby);
    assert_eq!(lab.command(Command::Start), Ok(()));
    assert_eq!(lab.it.report().active, Some(Term(1)), "the sole survivor goes on");
}

#[test]
fn a_node_whose_peer_does_not_take_over_goes_on_and_is_not_on_standby() {
    let mut lab = Lab::primary();
    lab.obliging = false;
    assert_eq!(lab.command(ON), Ok(()));
    let ends: [Ended; 4] = [
        (|step| matches!(step, Step::StopApplication { .. }), true),
        (|step| *step == Step::GiveUpAddresses, true),
        (|step| *step == Step::Drain, false),
        (|step| *step == Step::StopMirror, true),
    ];
    for (is_it, well) in ends {
        let step = lab.out.iter().rev().find_map(|action| match action {
            Action::Step(step) if is_it(step) => Some(*step),
            _ => None,
        });
        // What was not running is not stopped.
        let Some(step) = step else { continue };
        lab.tell(Event::Done(step, if well { Ok(()) } else { Err(()) }));
    }
    let copy = lab.copy;
    lab.tell(Event::Mirror(MirrorView::default(), copy));
    assert!(lab.has(&Action::Tell(Cause::StandbyFailed)), "{:?}", lab.out);
    let report = lab.it.report();
    assert!(report.active.is_some() && report.able, "{report:?}");
}

#[test]
fn nothing_is_left_to_a_peer_that_cannot_take_over() {
    let mut lab = Lab::primary();
    lab.tell(Event::PeerAlive(false));
    assert_eq!(lab.command(ON), Err(Refusal::PeerNotReady));
    assert!(lab.it.report().able && lab.it.report().active.is_some());
}

#[test]
fn an_arbiter_that_was_asked_is_waited_for() {
    let mut lab = Lab::secondary();
    lab.part(false);
    assert!(asks(&lab), "{:?}", lab.out);
    assert_eq!(lab.command(ON), Err(Refusal::Busy));
    lab.tell(Event::Arbiter(Term(2), Verdict::Won));
    assert_eq!(lab.it.report().active, Some(Term(2)));
}
