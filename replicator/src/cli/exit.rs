//! Exit codes of all subcommands.

/// Done; `status`: green; `doctor`: everything is there.
pub const OK: u8 = 0;
/// `status`: orange. `doctor`: a node can run, with less than the best. Elsewhere: failed.
pub const ORANGE: u8 = 1;
/// The command failed, and no other code says how.
pub const FAILED: u8 = 1;
/// `status`: red. `doctor`: a node cannot run here.
pub const RED: u8 = 2;
/// `compare`: the trees differ (as diff(1)). `verify`: the copies differ, and were not repaired.
pub const DIFFERENT: u8 = 1;
/// `compare`: they could not be compared (as diff(1)). `verify`: it did not come to its end.
pub const NOT_COMPARED: u8 = 2;
/// No daemon answers.
pub const NO_DAEMON: u8 = 3;
/// `status`: a daemon is there, and could not be asked.
pub const UNANSWERED: u8 = 4;
/// The command line makes no sense (EX_USAGE of sysexits.h).
pub const USAGE: u8 = 64;
/// The configuration is not valid (EX_CONFIG of sysexits.h).
pub const CONFIG: u8 = 78;

/// All of them, for `--help` and the manual page.
pub const HELP: &str = "\
Exit codes:
  all           0 done, 1 failed, 3 no daemon answers, 64 wrong usage, 78 the configuration is not valid
  status        0 green, 1 orange, 2 red, 3 no daemon answers, 4 a daemon is there and could not be asked
  doctor        0 all is there, 1 a node can run with less than the best, 2 a node cannot run here
  compare       0 identical, 1 different, 2 they could not be compared
  verify        0 identical, or repaired, 1 different, 2 it did not come to its end";
