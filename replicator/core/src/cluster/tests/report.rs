//! A report comes back as it was sent, and whatever else comes is refused.

use proptest::prelude::*;

use super::super::REPORT_BYTES_MAX;
use super::super::types::{Cause, CopyState, Readiness, Report, Word};
use crate::action::DataState;
use crate::ids::{COUNTED_MAX, Generation, Term};
use crate::lineage::{GenerationId, HISTORY, Lineage, Tag};
use crate::reunion::Account;

fn generation() -> impl Strategy<Value = GenerationId> {
    (1..=COUNTED_MAX, any::<u64>())
        .prop_map(|(number, tag)| GenerationId { number: Generation(number), tag: Tag(tag) })
}

fn copy() -> impl Strategy<Value = CopyState> {
    let past = proptest::collection::vec(generation(), 0..=HISTORY);
    let flags = any::<[bool; 5]>();
    (generation(), proptest::option::of(generation()), past, 0..4_u8, flags, 0..=COUNTED_MAX).prop_map(
        |(current, shared, past, data, flags, term)| {
            let mut history = [GenerationId::NONE; HISTORY];
            history.iter_mut().zip(past).for_each(|(to, from)| *to = from);
            let shared = shared.unwrap_or(GenerationId::NONE);
            let data = DataState::from_u8(data).unwrap_or(DataState::Outdated);
            let [primary, crashed, lost, marked, alone] = flags;
            let lineage = Lineage { current, shared, history };
            let account = Account { lineage, data, primary, crashed, lost, marked };
            CopyState { account, term: Term(term), alone }
        },
    )
}

fn report() -> impl Strategy<Value = Report> {
    let words = (0..5_u8, 0..3_u8, 0..32_u8);
    let terms = (proptest::option::of(0..=COUNTED_MAX), proptest::option::of(0..=COUNTED_MAX));
    (words, terms, proptest::option::of(copy()), any::<[bool; 5]>()).prop_map(
        |(words, terms, copy, flags)| {
            let [started, able, mirrored, insists, was_active] = flags;
            Report {
                word: Word::from_u8(words.0).unwrap_or_default(),
                readiness: Readiness::from_u8(words.1).unwrap_or_default(),
                cause: Cause::from_u8(words.2).unwrap_or_default(),
                started,
                able,
                active: terms.0.map(Term),
                copy,
                mirrored,
                wants: terms.1.map(Term),
                insists,
                was_active,
            }
        },
    )
}

/// The next term is one more than the highest that was heard of.
#[test]
fn a_term_that_leaves_no_room_for_another_is_refused() {
    let report = |term| Report {
        word: Word::Primary,
        readiness: Readiness::Ready,
        cause: Cause::None,
        started: true,
        able: true,
        active: Some(Term(term)),
        copy: None,
        mirrored: false,
        wants: None,
        insists: false,
        was_active: false,
    };
    assert!(Report::decode(&report(COUNTED_MAX).encode()).is_ok());
    assert!(Report::decode(&report(COUNTED_MAX + 1).encode()).is_err());
}

#[test]
fn causes_have_their_numbers() {
    for (number, cause) in Cause::ALL.iter().enumerate() {
        assert_eq!(usize::from(*cause as u8), number);
    }
}

proptest! {
    #[test]
    fn a_report_comes_back(report in report()) {
        let bytes = report.encode();
        prop_assert!(bytes.len() <= REPORT_BYTES_MAX);
        prop_assert_eq!(Report::decode(&bytes), Ok(report));
        for end in 0..bytes.len() {
            prop_assert!(Report::decode(&bytes[..end]).is_err());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        prop_assert!(Report::decode(&longer).is_err());
    }

    #[test]
    fn whatever_comes_is_an_error_or_a_report(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), near in any::<bool>()) {
        if near && !bytes.is_empty() {
            bytes[0] = 1;
        }
        if let Ok(report) = Report::decode(&bytes) {
            prop_assert_eq!(report.encode(), bytes);
        }
    }

    #[test]
    fn a_report_with_a_bit_changed_does_not_panic(report in report(), at in any::<usize>(), bit in 0..8_u8) {
        let mut bytes = report.encode();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(other) = Report::decode(&bytes) {
            prop_assert!(other.encode().len() <= REPORT_BYTES_MAX);
        }
    }
}
