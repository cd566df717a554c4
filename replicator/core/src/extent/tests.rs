//! Extents and sets of them, against a naive model.

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::{Extent, ExtentSet};

/// The naive model: one flag per byte of a small file; the last flag stands for all bytes up to `Extent::END`.
const MODEL_BYTES: usize = 96;

#[derive(Clone, Debug)]
enum Step {
    Insert(Extent),
    Subtract(Extent),
    PopFront(u64),
    PopFrom(u64, u64),
    SplitOff(u64),
    Clear,
}

fn extent() -> impl Strategy<Value = Extent> {
    let end = MODEL_BYTES as u64 - 1;
    prop_oneof![
        6 => (0..end, 0..12_u64).prop_map(move |(start, length)| Extent { start, end: (start + length).min(end) }),
        1 => (0..end).prop_map(|start| Extent { start, end: Extent::END }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => extent().prop_map(Step::Insert),
        4 => extent().prop_map(Step::Subtract),
        2 => (1..20_u64).prop_map(Step::PopFront),
        2 => (0..90_u64, 1..20_u64).prop_map(|(cursor, bytes)| Step::PopFrom(cursor, bytes)),
        1 => (0..90_u64).prop_map(Step::SplitOff),
        1 => Just(Step::Clear),
    ]
}

fn fill(model: &mut [bool], extent: Extent, value: bool) {
    for (at, flag) in model.iter_mut().enumerate() {
        let at = at as u64;
        let last = at as usize == MODEL_BYTES - 1;
        if (at >= extent.start && at < extent.end && !last) || (last && extent.end == Extent::END) {
            *flag = value;
        }
    }
}

fn model_of(set: &ExtentSet) -> Vec<bool> {
    let mut model = vec![false; MODEL_BYTES];
    set.iter().for_each(|extent| fill(&mut model, extent, true));
    model
}

fn is_normal(set: &ExtentSet) -> bool {
    let ranges: Vec<Extent> = set.iter().collect();
    ranges.iter().all(|extent| !extent.is_empty())
        && ranges.windows(2).all(|pair| pair[0].end < pair[1].start)
        && set.count() == ranges.len()
        && set.bytes()
            == ranges.iter().filter(|extent| !extent.is_open()).map(|extent| extent.length()).sum::<u64>()
}

proptest! {
    #[test]
    fn behaves_like_a_bitmap(steps in prop::collection::vec(step(), 0..60), query in extent()) {
        let mut set = ExtentSet::new();
        let mut model = vec![false; MODEL_BYTES];
        for step in steps {
            match step {
                Step::Insert(extent) => {
                    set.insert(extent);
                    fill(&mut model, extent, true);
                }
                Step::Subtract(extent) => {
                    set.subtract(extent);
                    fill(&mut model, extent, false);
                }
                Step::PopFront(bytes) => {
                    let expected = model.iter().position(|flag| *flag);
                    let popped = set.pop_front(bytes);
                    prop_assert_eq!(popped.map(|extent| extent.start.min(95) as usize), expected);
                    if let Some(extent) = popped {
                        prop_assert!(extent.length() <= bytes);
                        // The last flag stands for many bytes: popping some of them leaves the rest.
                        if extent.start < 95 {
                            fill(&mut model, Extent { end: extent.end.min(95), ..extent }, false);
                        }
                        if extent.end > 95 { model = model_of(&set); }
                    }
                }
                Step::PopFrom(cursor, bytes) => {
                    let expected = (cursor as usize..MODEL_BYTES).find(|at| model[*at]);
                    let popped = set.pop_from(cursor, bytes);
                    prop_assert_eq!(popped.map(|extent| extent.start.min(95) as usize), expected);
                    if popped.is_some() { model = model_of(&set); }
                }
                Step::SplitOff(at) => {
                    let tail = set.split_off(at);
                    prop_assert!(is_normal(&tail));
                    let mut expected = model.clone();
                    fill(&mut expected, Extent { start: 0, end: at }, false);
                    prop_assert_eq!(model_of(&tail), expected);
                    fill(&mut model, Extent { start: at, end: Extent::END }, false);
                }
                Step::Clear => {
                    set.clear();
                    model.fill(false);
                }
            }
            prop_assert!(is_normal(&set));
            prop_assert_eq!(model_of(&set), model.clone());
        }
        let mut mask = vec![false; MODEL_BYTES];
        fill(&mut mask, query, true);
        let both: Vec<bool> = model.iter().zip(&mask).map(|(a, b)| *a && *b).collect();
        prop_assert_eq!(model_of(&set.intersection(query)), both.clone());
        prop_assert_eq!(set.overlaps(query), both.contains(&true));
        prop_assert_eq!(set.contains(query), query.is_empty() || both == mask);
    }

    #[test]
    fn widening_never_narrows(
        starts in prop::collection::vec((0..1_u64 << 34, 1..100_000_u64), 1..200),
        limit in 1..50_usize,
    ) {
        let before: ExtentSet = starts.iter().map(|&(start, length)| Extent::at(start, length)).collect();
        let mut after = before.clone();
        let widened = after.widen(limit);
        prop_assert!(is_normal(&after));
        prop_assert_eq!(widened, before.count() > limit);
        prop_assert!(before.iter().all(|extent| after.contains(extent)));
        if widened {
            prop_assert!(after.count() <= (limit / 2).max(1));
        } else {
            prop_assert_eq!(after, before);
        }
    }
}

#[test]
fn insertion_joins_touching_ranges() {
    let mut set = ExtentSet::from_iter([Extent::at(0, 10), Extent::at(20, 10)]);
    assert_eq!(set.count(), 2);
    set.insert(Extent::at(10, 10));
    assert_eq!(set.iter().collect::<Vec<_>>(), [Extent::at(0, 30)]);
    assert_eq!(set.bytes(), 30);
}

#[test]
fn a_range_to_the_end_swallows_what_lies_behind() {
    let mut set = ExtentSet::from_iter([Extent::at(100, 10), Extent::at(5, 1)]);
    set.insert(Extent { start: 50, end: Extent::END });
    assert!(set.is_open());
    assert_eq!((set.count(), set.bytes()), (2, 1));
    set.subtract(Extent { start: 60, end: Extent::END });
    assert!(!set.is_open());
    assert_eq!(set.bytes(), 11);
}

#[test]
fn widening_ends_with_the_whole_file() {
    let mut set =
        ExtentSet::from_iter([Extent::at(1, 1), Extent::at(1 << 62, 1), Extent::at(u64::MAX - 9, 2)]);
    assert!(set.widen(1));
    assert_eq!(set.iter().collect::<Vec<_>>(), [Extent::WHOLE]);
}
