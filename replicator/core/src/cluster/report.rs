//! A report as bytes, for the heartbeat's payload. All numbers little-endian:
//!
//! | bytes | what |
//! |---:|---|
//! | 1 | version, 1 |
//! | 1, 1, 1 | word, readiness, cause |
//! | 1 | flags: 1 started, 2 able, 4 active, 8 copy, 16 mirrored, 32 wants, 64 insists, 128 was active |
//! | 8 | term in which it is active, or 0 |
//! | 8 | term it wants, or 0 |
//! | 8, 1, rest | with flag 8: the copy's term, whether it is recorded alone, and its account as in the frame `Account` |

use alloc::vec::Vec;

use super::types::{Cause, CopyState, Readiness, Report, Word};
use crate::ids::{COUNTED_MAX, Term};
use crate::reunion::Account;
use crate::wire::cursor::{BodyError, Cursor, Put};

const VERSION: u8 = 1;
/// Most bytes of a report.
pub const REPORT_BYTES_MAX: usize = 512;

impl Report {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let flags = [
            self.started,
            self.able,
            self.active.is_some(),
            self.copy.is_some(),
            self.mirrored,
            self.wants.is_some(),
            self.insists,
            self.was_active,
        ];
        let mut body = Vec::with_capacity(REPORT_BYTES_MAX);
        body.put(&[VERSION, self.word as u8, self.readiness as u8, self.cause as u8]);
        body.put_u8(flags.iter().enumerate().fold(0, |bits, (bit, set)| bits | u8::from(*set) << bit));
        body.put_u64(self.active.unwrap_or_default().0);
        body.put_u64(self.wants.unwrap_or_default().0);
        if let Some(copy) = &self.copy {
            body.put_u64(copy.term.0);
            body.put_u8(copy.alone.into());
            body.put(&copy.account.encode());
        }
        body
    }

    /// The report in the bytes.
    ///
    /// # Errors
    /// [`BodyError`]; a report of a newer version is an error, too, and so is a term that nobody counts to.
    pub fn decode(body: &[u8]) -> Result<Report, BodyError> {
        if body.len() > REPORT_BYTES_MAX {
            return Err(BodyError::Limit("report"));
        }
        let mut cursor = Cursor::new(body);
        if cursor.u8()? != VERSION {
            return Err(BodyError::Value("version of a report"));
        }
        let word = Word::from_u8(cursor.u8()?).ok_or(BodyError::Value("word"))?;
        let readiness = Readiness::from_u8(cursor.u8()?).ok_or(BodyError::Value("readiness"))?;
        let cause = Cause::from_u8(cursor.u8()?).ok_or(BodyError::Value("cause"))?;
        let flags = cursor.u8()?;
        let has = |bit: u8| flags >> bit & 1 == 1;
        let term = |set: bool, term: u64| match (set, term) {
            (false, 0) => Ok(None),
            (true, 0..=COUNTED_MAX) => Ok(Some(Term(term))),
            _ => Err(BodyError::Value("term")),
        };
        let active = term(has(2), cursor.u64()?)?;
        let wants = term(has(5), cursor.u64()?)?;
        let copy = if has(3) {
            let (term, alone) = (Term(cursor.u64()?), cursor.flag("alone")?);
            if term.0 > COUNTED_MAX {
                return Err(BodyError::Value("term"));
            }
            let rest = cursor.left();
            Some(CopyState { account: Account::decode(cursor.bytes(rest)?)?, term, alone })
        } else {
            None
        };
        cursor.finish()?;
        Ok(Report {
            word,
            readiness,
            cause,
            started: has(0),
            able: has(1),
            active,
            copy,
            mirrored: has(4),
            wants,
            insists: has(6),
            was_active: has(7),
        })
    }
}

macro_rules! from_u8 {
    ($name:ident: $($value:ident),+) => {
        impl $name {
            /// The one with that number.
            #[must_use]
            pub fn from_u8(value: u8) -> Option<$name> {
                [$($name::$value),+].into_iter().find(|known| *known as u8 == value)
            }
        }
    };
}

from_u8!(Word: Stopped, Waiting, Alone, Primary, Secondary);
from_u8!(Readiness: NotReady, Transient, Ready);

impl Cause {
    /// All of them, by their numbers.
    pub const ALL: [Cause; 35] = [
        Cause::None,
        Cause::OperatorStart,
        Cause::OperatorStop,
        Cause::OperatorSwap,
        Cause::OperatorPromote,
        Cause::OperatorForce,
        Cause::PeerLost,
        Cause::PeerYielded,
        Cause::Elected,
        Cause::SoleSurvivor,
        Cause::ArbiterWon,
        Cause::ArbiterLost,
        Cause::ArbiterSilent,
        Cause::ArbiterMissing,
        Cause::PolicyAlone,
        Cause::PeerActive,
        Cause::Late,
        Cause::WaitsForPeer,
        Cause::NotWhole,
        Cause::OperatorNeeded,
        Cause::PeerNewer,
        Cause::NotAble,
        Cause::Checker,
        Cause::ApplicationFailed,
        Cause::MirrorFailed,
        Cause::AddressFailed,
        Cause::BudgetSpent,
        Cause::Failback,
        Cause::Syncing,
        Cause::Starting,
        Cause::Stopping,
        Cause::RecordOlder,
        Cause::OnStandby,
        Cause::OperatorStandbyOff,
        Cause::StandbyFailed,
    ];

    /// The one with that number.
    #[must_use]
    pub fn from_u8(value: u8) -> Option<Cause> {
        Cause::ALL.get(usize::from(value)).copied()
    }
}
