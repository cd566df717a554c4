//! Every pair of nodes there is, and the table of the module.

use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::ids::Generation;
use crate::lineage::Tag;

fn id(number: u64, tag: u64) -> GenerationId {
    GenerationId { number: Generation(number), tag: Tag(tag) }
}

/// Both nodes shared generation 1, then 2; then one went on alone, or both did, once or again and again.
fn lineages() -> Vec<Lineage> {
    let first = Lineage::beginning_with(id(1, 1));
    let mut second = first;
    second.begin_generation(Tag(2), true);
    second.share();
    let alone = |tag| {
        let mut alone = second;
        alone.begin_generation(Tag(tag), true);
        alone
    };
    let mut again = alone(3);
    again.begin_generation(Tag(5), false);
    let mut third = alone(3);
    third.share();
    let mut from_first = first;
    from_first.begin_generation(Tag(6), true);
    let mut given_up = alone(4);
    given_up.give_up();
    let untagged = Lineage::untagged(Generation(2));
    let stranger = Lineage::beginning_with(id(1, 99));
    vec![
        Lineage::default(),
        first,
        second,
        alone(3),
        alone(4),
        again,
        third,
        from_first,
        given_up,
        untagged,
        stranger,
    ]
}

fn accounts() -> Vec<Account> {
    let data = [DataState::Inconsistent, DataState::Outdated, DataState::Consistent, DataState::UpToDate];
    let mut accounts = Vec::new();
    for lineage in lineages() {
        for data in data {
            for flags in 0..16 {
                let flag = |bit: u32| flags >> bit & 1 == 1;
                let (primary, crashed, lost, marked) = (flag(0), flag(1), flag(2), flag(3));
                accounts.push(Account { lineage, data, primary, crashed, lost, marked });
            }
        }
    }
    accounts
}

fn is_behind(one: &Lineage, other: &Lineage) -> bool {
    let known = |lineage: &Lineage, id: GenerationId| {
        lineage.shared.matches(id) != Match::No
            || lineage.former().any(|former| former.matches(id) != Match::No)
    };
    // One that has given its own up is behind everybody.
    let both = !one.current.is_none() && !other.current.is_none();
    both && known(other, one.current) && !known(one, other.current)
}

/// Properties of every pair there is.
#[test]
fn every_pair_of_nodes_comes_to_one_answer_that_overwrites_nothing_newer() {
    let accounts = accounts();
    for here in &accounts {
        for peer in &accounts {
            let found = decide(here, peer);
            let told = || alloc::format!("{here:?}\n{peer:?}\n{found:?}");
            assert_eq!(found.mirrored(), decide(peer, here), "both see the same: {}", told());
            let Some(side) = found.source else {
                assert!(found.scope == Scope::Everything || found.scope == Scope::Nothing, "{}", told());
                assert_eq!(found.scope == Scope::Everything, found.keeps, "{}", told());
                continue;
            };
            let (source, target) = match side {
                Side::Here => (here, peer),
                Side::Peer => (peer, here),
            };
            assert!(source.may_be_source(), "only a whole copy is a source: {}", told());
            assert!(!is_behind(&source.lineage, &target.lineage), "a stale node is no source: {}", told());
            let has = |node: &Account| !node.lineage.current.is_none();
            assert!(has(source) || !has(target), "no data is no source for data: {}", told());
            let unknown = !has(source) || !has(target);
            let lost = source.lost || target.lost;
            assert!(
                found.scope == Scope::Everything || !(unknown || lost),
                "what is not known is never equal: {}",
                told()
            );
            let untagged = source.lineage.current.tag == Tag(0) || target.lineage.current.tag == Tag(0);
            assert!(found.scope == Scope::Everything || !untagged, "a number is no proof: {}", told());
            if found.scope == Scope::Nothing {
                assert_eq!(source.lineage.current, target.lineage.current, "{}", told());
                assert!(target.may_be_source() && !source.marked && !target.marked, "{}", told());
            }
            if source.crashed || target.crashed {
                assert!(found.scope >= Scope::SafeSet, "{}", told());
            }
            if target.crashed || target.lost {
                assert!(found.keeps, "what it alone may have is kept: {}", told());
            }
            if has(target) && target.lineage.current.tag == Tag(0) {
                assert!(found.keeps, "a number does not say whose data it is: {}", told());
            }
            let overruled = found.overruled(side.mirrored());
            assert_eq!((overruled.source, overruled.scope), (Some(side.mirrored()), Scope::Everything));
            assert!(overruled.keeps);
        }
    }
}

fn calm(lineage: Lineage, primary: bool) -> Account {
    Account { lineage, data: DataState::UpToDate, primary, crashed: false, lost: false, marked: primary }
}

/// What a primary that is calm finds with each kind of secondary: the table of the module.
#[test]
fn the_table_holds() {
    use Relation::{Ahead, Diverged, New, Same, Unrelated};
    let all = lineages();
    let [none, first, second, alone, other, again, third, from_first, given_up, untagged, stranger] = all[..]
    else {
        panic!("the lineages were changed");
    };
    let ahead = |near| Ahead { side: Side::Here, near };
    let behind = |near| Ahead { side: Side::Peer, near };
    let parted = |known_parent| Diverged { known_parent };
    let (us, them) = (Some(Side::Here), Some(Side::Peer));
    let (marks, everything) = (Scope::Marks, Scope::Everything);
    let table = [
        (alone, none, New, us, everything),
        (alone, given_up, New, us, everything),
        (none, alone, New, them, everything),
        (none, none, New, us, everything),
        (second, second, Same, us, marks),
        (untagged, second, Same, us, everything),
        (alone, second, ahead(true), us, marks),
        (again, second, ahead(true), us, marks),
        (alone, untagged, ahead(true), us, everything),
        (again, alone, ahead(false), us, everything),
        (third, first, ahead(false), us, everything),
        (third, second, ahead(false), us, everything),
        // This node's state is an older one.
        (second, alone, behind(true), them, marks),
        (second, third, behind(false), them, everything),
        (from_first, third, parted(false), None, everything),
        (from_first, alone, parted(false), None, everything),
        (alone, other, parted(true), None, everything),
        (again, other, parted(true), None, everything),
        (other, third, parted(false), None, everything),
        (stranger, second, Unrelated, None, everything),
        (stranger, first, Unrelated, None, everything),
    ];
    for (here, peer, relation, source, scope) in table {
        let found = decide(&calm(here, true), &calm(peer, false));
        assert_eq!(
            (found.relation, found.source, found.scope),
            (relation, source, scope),
            "{here:?} {peer:?}"
        );
    }
}

/// The copy of either may be less than whole, or have been written to until a crash.
#[test]
fn what_is_not_whole_is_no_source_and_who_crashed_is_compared() {
    let all = lineages();
    let (second, alone) = (all[2], all[3]);
    let whole = calm(second, true);
    let broken = |node: Account| Account { data: DataState::Inconsistent, ..node };
    let peer = calm(second, false);
    assert_eq!(decide(&broken(whole), &peer).source, Some(Side::Peer));
    assert_eq!(decide(&whole, &broken(peer)).source, Some(Side::Here));
    assert_eq!(decide(&broken(whole), &broken(peer)).source, None);
    // One that went on alone with a copy that is not whole brings it to nobody, and nobody overwrites it either.
    assert_eq!(decide(&broken(calm(alone, true)), &peer).source, None);
    let crashed = |node: Account| Account { crashed: true, primary: false, ..node };
    let idle = |node: Account| Account { primary: false, marked: false, ..node };
    // Neither acts: the one that crashed as a primary was written to last.
    let found = decide(&crashed(whole), &idle(peer));
    assert_eq!((found.source, found.scope), (Some(Side::Here), Scope::SafeSet));
    let found = decide(&idle(whole), &idle(peer));
    assert_eq!((found.source, found.scope, found.keeps), (None, Scope::Nothing, false));
    // The survivor took over: what the crashed one alone had is kept aside.
    let found = decide(&calm(alone, true), &crashed(peer));
    assert_eq!((found.source, found.scope, found.keeps), (Some(Side::Here), Scope::SafeSet, true));
}
