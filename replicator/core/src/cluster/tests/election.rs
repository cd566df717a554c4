//! Both nodes come to the same answer, and nobody is elected whose copy is not whole.

use alloc::vec::Vec;

use super::super::election::{Candidate, Elected, elect, is_not_behind};
use super::super::types::{CopyState, NodeId};
use crate::action::DataState;
use crate::ids::{Generation, Term};
use crate::lineage::{GenerationId, Lineage, Tag};
use crate::reunion::{Account, Side};

const STATES: [DataState; 4] =
    [DataState::Inconsistent, DataState::Outdated, DataState::Consistent, DataState::UpToDate];

fn lineages() -> Vec<Lineage> {
    let first = GenerationId { number: Generation(1), tag: Tag(7) };
    let begun = Lineage::beginning_with(first);
    let on = |tag: u64, of: Lineage| {
        let mut lineage = of;
        lineage.begin_generation(Tag(tag), true);
        lineage
    };
    let mut shared = on(8, begun);
    shared.share();
    alloc::vec![Lineage::default(), begun, on(8, begun), on(9, begun), shared, on(10, on(8, begun))]
}

fn candidates(node: NodeId) -> Vec<Candidate> {
    let mut all = Vec::new();
    for lineage in lineages() {
        for data in STATES {
            for bits in 0..16_u8 {
                let on = |bit: u8| bits >> bit & 1 == 1;
                let account =
                    Account { lineage, data, primary: false, crashed: on(0), lost: false, marked: on(1) };
                let copy = CopyState { account, term: Term(u64::from(on(2)) + 1), alone: on(1) };
                all.push(Candidate { copy, able: on(3), was_active: on(0), node });
            }
        }
    }
    all
}

fn mirrored(elected: Elected) -> Elected {
    match elected {
        Elected::Side(side) => Elected::Side(side.mirrored()),
        Elected::Operator => Elected::Operator,
    }
}

#[test]
fn both_come_to_the_same_answer_and_nobody_stale_is_elected() {
    let (one, two) = (NodeId([1; 16]), NodeId([2; 16]));
    let (here, there) = (candidates(one), candidates(two));
    for mine in &here {
        for theirs in &there {
            for default in [None, Some(one), Some(two)] {
                let found = elect(mine, theirs, default);
                assert_eq!(found, mirrored(elect(theirs, mine, default)), "{mine:?} {theirs:?}");
                let chosen = match found {
                    Elected::Side(Side::Here) => mine,
                    Elected::Side(Side::Peer) => theirs,
                    Elected::Operator => continue,
                };
                assert!(chosen.copy.is_whole(), "{mine:?} {theirs:?}: {found:?}");
            }
        }
    }
}

#[test]
fn who_is_elected_is_not_behind() {
    for mine in candidates(NodeId([1; 16])) {
        for theirs in candidates(NodeId([2; 16])) {
            if elect(&mine, &theirs, None) == Elected::Side(Side::Here) {
                assert!(is_not_behind(&mine.copy, &theirs.copy), "{mine:?} {theirs:?}");
            }
        }
    }
}
