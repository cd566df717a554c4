//! Every command in every state.

use alloc::vec;
use alloc::vec::Vec;

use super::super::types::{Command, Event, Refusal};
use super::lab::{Lab, config, new, outdated, says, whole};
use crate::ids::Term;

const COMMANDS: [Command; 8] = [
    Command::Start,
    Command::Stop,
    Command::Swap,
    Command::Standby { on: true },
    Command::Standby { on: false },
    Command::Restart,
    Command::Promote { force: false },
    Command::Promote { force: true },
];

type Answer = Result<(), Refusal>;
type Row = (&'static str, fn() -> Lab, [Answer; 8]);

/// Each state with what is answered, in the order of the commands.
fn table() -> Vec<Row> {
    use Refusal::{Active, Busy, NotActive, NotWhole, PeerActive, PeerNotReady, Stopped};
    let ok = Ok(());
    let (inactive, not_ready) = (Err(NotActive), Err(PeerNotReady));
    vec![
        ("being started", starting, [ok, ok, inactive, ok, ok, inactive, not_ready, Err(Busy)]),
        ("stopped", stopped, [ok, ok, inactive, Err(Stopped), ok, inactive, not_ready, ok]),
        ("waiting", waiting, [ok, ok, inactive, ok, ok, inactive, not_ready, ok]),
        ("new, as the peer", fresh, [ok, ok, inactive, ok, ok, inactive, ok, ok]),
        ("outdated", behind, [ok, ok, inactive, ok, ok, inactive, Err(NotWhole), ok]),
        ("secondary", Lab::secondary, [ok, ok, inactive, ok, ok, inactive, Err(PeerActive), ok]),
        ("yielding", yielding, [ok, ok, inactive, ok, ok, inactive, Err(Busy), Err(Busy)]),
        ("alone", alone, [ok, ok, not_ready, not_ready, ok, ok, Err(Active), Err(Active)]),
        ("primary", Lab::primary, [ok, ok, ok, ok, ok, ok, Err(Active), Err(Active)]),
        ("leaving", leaving, [ok, ok, Err(Busy), Err(Busy), ok, Err(Busy), Err(Active), Err(Active)]),
        ("on standby", standby, [ok, ok, inactive, ok, ok, inactive, Err(PeerActive), ok]),
        ("blocked", blocked, [ok, ok, inactive, ok, ok, inactive, not_ready, ok]),
    ]
}

fn starting() -> Lab {
    let mut lab = Lab::cold(config(), true, whole(1));
    lab.obliging = false;
    lab.tell(Event::Able(true));
    lab
}

fn stopped() -> Lab {
    Lab::new(config(), false, whole(1))
}

fn waiting() -> Lab {
    Lab::new(config(), true, whole(1))
}

fn fresh() -> Lab {
    let mut lab = Lab::new(config(), true, new());
    lab.peer(says(new()));
    lab
}

fn behind() -> Lab {
    let mut lab = Lab::new(config(), true, outdated(2));
    let mut report = says(whole(1));
    report.started = false;
    lab.peer(report);
    lab
}

fn yielding() -> Lab {
    let mut lab = waiting();
    lab.obliging = false;
    let mut report = says(super::lab::alone(2));
    report.wants = Some(Term(3));
    lab.peer(report);
    assert!(lab.has(&super::super::types::Action::Outdate(Term(3))), "{:?}", lab.out);
    lab
}

fn alone() -> Lab {
    Lab::new(config(), true, super::lab::alone(1)).parted()
}

fn leaving() -> Lab {
    let mut lab = Lab::primary();
    lab.obliging = false;
    assert_eq!(lab.command(Command::Swap), Ok(()));
    lab
}

fn standby() -> Lab {
    let mut lab = Lab::secondary();
    assert_eq!(lab.command(Command::Standby { on: true }), Ok(()));
    lab
}

fn blocked() -> Lab {
    let mut lab = alone();
    for _ in 0..4 {
        lab.tell(Event::MirrorEnded);
        let copy = lab.copy;
        lab.tell(Event::Mirror(Default::default(), copy));
        lab.wait(1000);
    }
    assert!(!lab.it.report().started, "{:?}", lab.it.report());
    lab
}

impl Lab {
    fn parted(mut self) -> Lab {
        self.wait(5000);
        assert!(self.it.report().active.is_some(), "{:?}", self.it.report());
        self
    }
}

#[test]
fn every_command_in_every_state() {
    for (name, state, answers) in table() {
        for (command, wanted) in COMMANDS.into_iter().zip(answers) {
            let mut lab = state();
            assert_eq!(lab.command(command), wanted, "{name}: {command:?}");
            // And once more: whatever it led to, it is answered once.
            let _ = lab.command(command);
        }
    }
}
