//! Single decisions, each of which the simulation once found wrong, or on which much depends.

use super::super::posture::{Step, Thing};
use super::super::types::{Action, Cause, Command, Event, Policy, Report, Role, Verdict, Word};
use super::lab::{Lab, alone, config, new, outdated, says, whole};
use crate::ids::Term;

fn won(term: u64) -> Event {
    Event::Arbiter(Term(term), Verdict::Won)
}

fn lost(term: u64) -> Event {
    Event::Arbiter(Term(term), Verdict::Lost { term: Term(term), own: false })
}

fn starts_application(step: &Step) -> bool {
    *step == Step::StartApplication
}

#[test]
fn a_primary_that_lost_its_peer_goes_on_when_the_arbiter_grants_the_next_term() {
    let mut lab = Lab::primary();
    lab.part(true);
    assert!(lab.has(&Action::AskArbiter(Term(2))), "{:?}", lab.out);
    lab.tell(won(2));
    assert!(lab.has(&Action::GoAlone(Term(2))));
    assert!(!lab.has_step(|_| true));
}

#[test]
fn a_primary_that_lost_at_the_arbiter_ends_at_once_and_yields() {
    let mut lab = Lab::primary();
    lab.part(true);
    lab.tell(lost(2));
    let first = lab.out.iter().find_map(|action| match action {
        Action::Step(step) => Some(*step),
        _ => None,
    });
    assert_eq!(first, Some(Step::GiveUpAddresses));
    assert!(lab.has_step(|step| *step == Step::StopApplication { force: true }));
    assert!(lab.has(&Action::Outdate(Term(2))));
    assert_eq!(lab.it.report().active, None);
}

#[test]
fn a_secondary_asks_for_the_next_term_only_when_it_does_not_receive_any_more() {
    let mut lab = Lab::secondary();
    lab.obliging = false;
    lab.part(false);
    assert!(lab.has_step(|step| *step == Step::StopMirror), "{:?}", lab.out);
    assert!(!lab.has(&Action::AskArbiter(Term(2))));
    lab.tell(Event::Done(Step::StopMirror, Ok(())));
    assert!(!lab.has(&Action::AskArbiter(Term(2))), "its record is not known yet");
    lab.mirror(false, false, false);
    assert!(lab.has(&Action::AskArbiter(Term(2))));
    // A resync was begun at the last moment: the grant is worth nothing.
    lab.copy = outdated(1);
    lab.mirror(false, false, false);
    lab.take();
    lab.tell(won(2));
    assert_eq!(lab.it.report().active, None);
}

#[test]
fn the_active_node_is_first_also_where_heartbeats_were_lost_long_before_the_session() {
    let mut lab = Lab::secondary();
    lab.tell(Event::PeerAlive(false));
    lab.wait(60_000);
    assert!(!lab.has_step(|_| true), "{:?}", lab.out);
    lab.mirror(false, false, false);
    assert!(!lab.has_step(|_| true), "{:?}", lab.out);
    assert_eq!(lab.it.next_deadline(), Some(lab.now.after(core::time::Duration::from_millis(100))));
    lab.wait(100);
    assert!(lab.has_step(|step| *step == Step::StopMirror));
}

#[test]
fn who_heard_of_a_higher_term_than_its_copy_has_asks_for_nothing() {
    let mut lab = Lab::new(config(), true, whole(1));
    let mut report = says(alone(2));
    report.active = Some(Term(2));
    lab.peer(report);
    lab.take();
    lab.part(false);
    lab.wait(10_000);
    assert!(!lab.out.iter().any(|action| matches!(action, Action::AskArbiter(_))), "{:?}", lab.out);
    assert_eq!(lab.it.report().cause, Cause::PeerNewer);
}

#[test]
fn the_application_does_not_start_while_it_is_not_known_whether_the_peer_took_over() {
    let mut lab = Lab::primary();
    lab.tell(Event::PeerAlive(false));
    lab.tell(Event::MirrorEnded);
    lab.mirror(false, false, false);
    lab.wait(1000);
    lab.mirror(false, false, true);
    assert!(lab.has_step(|step| matches!(step, Step::StartMirror { role: Role::Primary, alone: false, .. })));
    assert!(!lab.has_step(starts_application), "{:?}", lab.out);
    lab.tell(won(2));
    assert!(lab.has(&Action::GoAlone(Term(2))));
    assert!(!lab.has_step(starts_application));
    lab.copy = alone(2);
    lab.mirror(false, false, false);
    assert!(lab.has_step(starts_application));
}

#[test]
fn who_is_granted_a_term_by_a_peer_that_yielded_starts_at_once() {
    let mut lab = Lab::secondary();
    lab.mirror(false, false, false);
    lab.tell(Event::Heard(says(outdated(2))));
    let started = |step: &Step| {
        matches!(step, Step::StartMirror { role: Role::Primary, term: Term(2), alone: true, force: false })
    };
    assert!(lab.has_step(started));
    assert!(lab.has_step(starts_application));
    assert_eq!(lab.it.report().word, Word::Alone);
}

/// A peer waits for the term that it yielded to, however far the mirror was when it was said.
#[test]
fn a_term_that_a_peer_yielded_to_is_said_until_it_is_on_record() {
    let mut lab = Lab::secondary();
    lab.mirror(false, false, false);
    lab.tell(Event::Heard(says(outdated(2))));
    lab.copy = alone(2);
    lab.mirror(false, false, false);
    lab.tell(Event::Heard(says(outdated(3))));
    assert!(lab.has(&Action::GoAlone(Term(3))));
    lab.take();
    lab.mirror(false, false, false);
    assert!(lab.has(&Action::GoAlone(Term(3))), "it may not have been there");
    lab.copy = alone(3);
    lab.take();
    lab.mirror(false, false, false);
    assert!(!lab.has(&Action::GoAlone(Term(3))));
    assert_eq!(lab.it.report().active, Some(Term(3)));
}

#[test]
fn two_that_were_both_told_to_be_active_do_not_both_yield_for_ever() {
    let mut lab = Lab::new(config(), true, new());
    lab.peer(says(new()));
    assert_eq!(lab.command(Command::Promote { force: false }), Ok(()));
    let wants = lab.it.report().wants;
    assert_eq!(wants, Some(Term(1)));
    let mut report = says(new());
    (report.wants, report.insists) = (Some(Term(1)), true);
    // This one goes first: its number is lower.
    lab.peer(report);
    assert!(!lab.has(&Action::Outdate(Term(1))));
    let mut other = config();
    core::mem::swap(&mut other.node, &mut other.peer);
    let mut lab = Lab::new(other, true, new());
    lab.peer(says(new()));
    assert_eq!(lab.command(Command::Promote { force: false }), Ok(()));
    lab.peer(report);
    assert!(lab.has(&Action::Outdate(Term(1))));
    assert!(!lab.it.report().insists);
}

#[test]
fn who_lost_at_the_arbiter_while_the_peer_is_there_again_waits_for_what_that_says() {
    let mut lab = Lab::primary();
    lab.part(true);
    lab.peer(says(whole(1)));
    lab.take();
    lab.tell(lost(2));
    assert!(!lab.has(&Action::Outdate(Term(2))), "{:?}", lab.out);
    // Callers are held, so nothing is lost. Either it yields,
    lab.tell(Event::Heard(says(outdated(2))));
    assert!(lab.has(&Action::GoAlone(Term(2))));
    // or it is active.
    let mut report = says(whole(2));
    report.active = Some(Term(3));
    lab.tell(Event::Heard(report));
    assert!(lab.has(&Action::Outdate(Term(3))));
}

#[test]
fn who_lost_at_the_arbiter_and_whose_peer_is_heard_and_does_not_answer_ends() {
    let mut lab = Lab::primary();
    lab.tell(Event::Heard(says(whole(1))));
    lab.mirror(false, false, true);
    assert_eq!(lab.it.report().wants, Some(Term(2)));
    lab.wait(3000);
    assert!(lab.has(&Action::AskArbiter(Term(2))), "{:?}", lab.out);
    lab.tell(lost(2));
    assert!(lab.has(&Action::Outdate(Term(2))), "{:?}", lab.out);
}

#[test]
fn no_term_is_left_to_the_peer_that_may_be_this_nodes_at_the_arbiter() {
    let mut lab = Lab::new(config(), true, whole(1));
    lab.wait(5000);
    assert!(lab.has(&Action::AskArbiter(Term(2))), "{:?}", lab.out);
    lab.tell(Event::Arbiter(Term(2), Verdict::Unreachable));
    let mut report = says(whole(1));
    (report.active, report.wants) = (Some(Term(1)), Some(Term(2)));
    lab.peer(report);
    assert!(lab.has(&Action::Outdate(Term(3))), "{:?}", lab.out);
}

#[test]
fn an_active_node_that_is_alone_takes_the_term_that_the_peer_left_to_it() {
    let mut lab = Lab::new(config(), true, alone(1));
    lab.wait(5000);
    assert_eq!(lab.it.report().active, Some(Term(1)));
    lab.take();
    // It would be refused by the peer with its own.
    lab.peer(says(outdated(2)));
    assert!(lab.has(&Action::GoAlone(Term(2))));
}

#[test]
fn a_peer_that_ran_alone_with_a_higher_term_wins_though_it_is_not_active_now() {
    let mut config = config();
    (config.policy, config.arbiter) = (Policy::AvailabilityFirst, false);
    let mut lab = Lab::new(config, true, alone(3));
    lab.wait(5000);
    lab.peer(says(alone(4)));
    assert!(lab.has(&Action::Outdate(Term(4))), "{:?}", lab.out);
    assert_eq!(lab.it.report().active, None);
}

#[test]
fn a_swap_goes_on_here_if_the_peer_is_not_whole_any_more() {
    let mut lab = Lab::primary();
    lab.obliging = false;
    assert_eq!(lab.command(Command::Swap), Ok(()));
    lab.obliging = true;
    lab.tell(Event::Done(Step::StopApplication { force: false }, Ok(())));
    let taken = lab.take();
    assert!(taken.contains(&Action::Outdate(Term(2))), "{taken:?}");
    let mut lab = Lab::primary();
    lab.obliging = false;
    assert_eq!(lab.command(Command::Swap), Ok(()));
    lab.tell(Event::Heard(says(outdated(2))));
    lab.obliging = true;
    lab.tell(Event::Done(Step::StopApplication { force: false }, Ok(())));
    lab.wait(1000);
    assert!(!lab.has(&Action::Outdate(Term(2))), "{:?}", lab.out);
    assert_eq!(lab.it.posture.mirror, Thing::On);
    assert!(lab.it.report().active.is_some());
}

#[test]
fn who_did_not_run_gives_up_the_addresses_until_the_peer_answered() {
    let mut lab = Lab::primary();
    lab.tell(Event::Late);
    assert!(lab.has_step(|step| *step == Step::GiveUpAddresses));
    assert!(!lab.has_step(|step| *step == Step::TakeAddresses));
    lab.tell(Event::Echoed);
    assert!(lab.has_step(|step| *step == Step::TakeAddresses));
}

#[test]
fn by_policy_a_primary_goes_on_and_its_secondary_waits_for_an_operator() {
    let manual = |mut lab: Lab| {
        lab.it.config.policy = Policy::Manual;
        lab
    };
    let mut lab = manual(Lab::primary());
    lab.part(true);
    assert!(lab.has(&Action::GoAlone(Term(2))));
    let mut lab = manual(Lab::secondary());
    lab.part(false);
    lab.wait(60_000);
    assert_eq!(lab.it.report().cause, Cause::OperatorNeeded);
    assert_eq!(lab.it.report().active, None);
}

#[test]
fn without_an_arbiter_callers_are_held_and_the_secondary_stays_one() {
    let without = |mut lab: Lab| {
        lab.it.config.arbiter = false;
        lab
    };
    let mut lab = without(Lab::primary());
    lab.part(true);
    lab.wait(60_000);
    assert_eq!(lab.it.report().cause, Cause::ArbiterMissing);
    assert!(!lab.out.iter().any(|action| matches!(action, Action::GoAlone(_))));
    let mut lab = without(Lab::secondary());
    lab.part(false);
    lab.wait(60_000);
    assert_eq!(lab.it.report().cause, Cause::ArbiterMissing);
    assert!(!lab.has_step(|step| *step == Step::StopMirror));
}

#[test]
fn nothing_is_said_to_be_outdated_before_that_is_durable() {
    let mut lab = Lab::new(config(), true, whole(1));
    lab.obliging = false;
    let mut report = says(alone(2));
    report.wants = Some(Term(3));
    lab.peer(report);
    assert!(lab.has(&Action::Outdate(Term(3))));
    assert_eq!(lab.it.report().copy.and_then(|copy| copy.yields()), None);
    lab.tell(Event::Outdated(Term(3), Err(())));
    assert_eq!(lab.it.report().copy.and_then(|copy| copy.yields()), None);
    lab.take();
    lab.wait(1000);
    assert!(lab.has(&Action::Outdate(Term(3))));
    lab.tell(Event::Outdated(Term(3), Ok(())));
    assert_eq!(Report::yields(&lab.it.report()), Some(Term(3)));
}
