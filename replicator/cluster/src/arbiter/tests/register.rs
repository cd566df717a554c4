//! The one rule, by table and against what it must mean.

use std::collections::HashMap;

use proptest::prelude::*;
use replicator_core::ids::{Generation, Term};
use replicator_core::lineage::{GenerationId, Tag};

use crate::arbiter::register::{Decision, decide};
use crate::arbiter::{Distrust, Known, ModuleName, NodeId, Value, WitnessId, learn, trust};

fn value(term: u64, node: u8, number: u64, tag: u64) -> Value {
    let generation = GenerationId { number: Generation(number), tag: Tag(tag) };
    Value { term: Term(term), holder: NodeId([node; 16]), generation }
}

#[test]
fn the_table() {
    let stored = value(5, 1, 10, 77);
    let granted = |asked| assert_eq!(decide(Some(stored), asked), Decision::Grant(asked), "{asked}");
    let refused = |asked| assert_eq!(decide(Some(stored), asked), Decision::Refuse(stored), "{asked}");
    assert_eq!(decide(None, stored), Decision::Grant(stored));
    granted(value(6, 1, 10, 77));
    granted(value(6, 2, 1, 1));
    granted(value(u64::MAX, 2, 1, 1));
    granted(value(5, 1, 10, 77));
    granted(value(5, 1, 11, 78));
    granted(value(5, 1, 10, 78));
    refused(value(5, 2, 10, 77));
    refused(value(5, 2, 99, 77));
    refused(value(4, 1, 10, 77));
    refused(value(4, 2, 99, 77));
    refused(value(0, 1, 10, 77));
    // A late copy of an old request of the holder: it has the term, and the record stays.
    assert_eq!(decide(Some(stored), value(5, 1, 9, 77)), Decision::Grant(stored));
}

proptest! {
    /// Whatever is asked in whatever order: a term has one holder for good, terms never fall, nothing but a grant changes anything.
    #[test]
    fn a_term_has_one_holder(asks in prop::collection::vec((1_u64..6, 0_u8..4, 0_u64..4, 0_u64..3), 1..200)) {
        let mut stored: Option<Value> = None;
        let mut holders: HashMap<Term, NodeId> = HashMap::new();
        for (term, node, number, tag) in asks {
            let asked = value(term, node, number, tag);
            match decide(stored, asked) {
                Decision::Grant(now) => {
                    prop_assert_eq!((now.term, now.holder), (asked.term, asked.holder));
                    prop_assert!(stored.is_none_or(|before| before.term <= now.term));
                    let holder = *holders.entry(now.term).or_insert(now.holder);
                    prop_assert_eq!(holder, now.holder, "two holders of term {}", now.term);
                    stored = Some(now);
                }
                Decision::Refuse(current) => {
                    prop_assert_eq!(Some(current), stored);
                    prop_assert!(current.term >= asked.term);
                    prop_assert!((current.term, current.holder) != (asked.term, asked.holder));
                }
            }
        }
    }
}

#[test]
fn who_has_forgotten_is_not_trusted() {
    let (one, two) = (WitnessId([1; 16]), WitnessId([2; 16]));
    let known = Some(Known { witness: one, term: Term(5) });
    assert_eq!(trust(None, one, None), Ok(()));
    assert_eq!(trust(None, one, Some(Term(1))), Ok(()));
    assert_eq!(trust(known, one, Some(Term(5))), Ok(()));
    assert_eq!(trust(known, one, Some(Term(6))), Ok(()));
    let behind = |found| Err(Distrust::Behind { known: Term(5), found });
    assert_eq!(trust(known, one, Some(Term(4))), behind(Some(Term(4))));
    assert_eq!(trust(known, one, None), behind(None));
    let other = Err(Distrust::OtherWitness { expected: one, found: two });
    assert_eq!(trust(known, two, Some(Term(9))), other);
    let nothing_yet = Some(Known { witness: one, term: Term(0) });
    assert_eq!(trust(nothing_yet, one, None), Ok(()));
    assert_eq!(trust(nothing_yet, two, None), other);
}

#[test]
fn what_is_known_only_grows() {
    let witness = WitnessId([1; 16]);
    let known = learn(None, witness, None);
    assert_eq!(known, Known { witness, term: Term(0) });
    let known = learn(Some(known), witness, Some(value(5, 1, 1, 1)));
    assert_eq!(known, Known { witness, term: Term(5) });
    assert_eq!(learn(Some(known), witness, Some(value(4, 1, 1, 1))), known);
}

#[test]
fn names_of_modules_are_names_of_files() {
    for name in ["a", "web-1.prod_2", "..", "-", &"x".repeat(64)] {
        assert_eq!(ModuleName::new(name).map(|name| name.to_string()), Ok(name.to_owned()));
    }
    for name in ["", "a/b", "a b", "\u{e4}", "a\0", "a\n", &"x".repeat(65)] {
        assert!(ModuleName::new(name).is_err(), "{name:?}");
    }
}

#[test]
fn identities_are_read_as_they_are_written() {
    let node = NodeId(*b"0123456789abcdef");
    assert_eq!(node.to_string().parse(), Ok(node));
    for text in ["", "00", &"0".repeat(31), &"0".repeat(33), &"g".repeat(32)] {
        assert!(text.parse::<NodeId>().is_err(), "{text:?}");
    }
}
