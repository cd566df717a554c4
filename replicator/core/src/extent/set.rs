//! A set of byte ranges, kept sorted and without overlap or touching neighbours.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;

use super::Extent;

/// Smallest unit to which [`ExtentSet::widen`] rounds.
const GRANULE_MIN: u64 = 4096;
/// From one attempt to the next the unit grows by this factor.
const GRANULE_GROWTH: u64 = 4;

/// A set of bytes of one file, as coalesced ranges.
///
/// Insertion costs the logarithm of the number of ranges, and next to nothing where the bytes are already in the
/// range that was touched last (a hot page, a log that is written in small pieces).
#[derive(Clone, Default, Debug)]
pub struct ExtentSet {
    /// Start to end. No two ranges overlap or touch.
    ranges: BTreeMap<u64, u64>,
    /// Bytes in ranges that have a definite end.
    bytes: u64,
    /// Bytes known to be in the set: the quick path of `insert`. Empty when nothing is known.
    recent: Extent,
}

impl PartialEq for ExtentSet {
    fn eq(&self, other: &Self) -> bool {
        self.ranges == other.ranges
    }
}

impl Eq for ExtentSet {}

impl FromIterator<Extent> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut set = ExtentSet::new();
        extents.into_iter().for_each(|extent| set.insert(extent));
        set
    }
}

/// Bytes a range adds to the total: those of ranges with a definite end.
fn definite(start: u64, end: u64) -> u64 {
    if end == Extent::END { 0 } else { end - start }
}

impl ExtentSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> ExtentSet {
        ExtentSet { ranges: BTreeMap::new(), bytes: 0, recent: Extent { start: 0, end: 0 } }
    }

    /// Whether no byte is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Number of ranges.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// Number of bytes in ranges with a definite end. A range to [`Extent::END`] counts nothing: where the file ends is
    /// not known here.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a range goes to the end of the file.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.ranges.last_key_value().is_some_and(|(_, &end)| end == Extent::END)
    }

    /// The ranges in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        self.ranges.iter().map(|(&start, &end)| Extent { start, end })
    }

    /// The first range.
    #[must_use]
    pub fn first(&self) -> Option<Extent> {
        self.ranges.first_key_value().map(|(&start, &end)| Extent { start, end })
    }

    /// Take all bytes out.
    pub fn clear(&mut self) {
        *self = ExtentSet::new();
    }

    /// Take the whole content, leaving the empty set.
    #[must_use]
    pub fn take(&mut self) -> ExtentSet {
        core::mem::take(self)
    }

    /// Add the bytes of a range.
    pub fn insert(&mut self, extent: Extent) {
        if extent.is_empty() || self.recent.contains(extent) {
            return;
        }
        let Extent { mut start, mut end } = extent;
        if let Some((&before, &before_end)) = self.ranges.range(..=start).next_back() {
            if before_end >= end {
                self.recent = Extent { start: before, end: before_end };
                return;
            }
            if before_end >= start {
                start = before;
                self.bytes -= definite(before, before_end);
            }
        }
        while let Some((&after, &after_end)) =
            self.ranges.range((Bound::Excluded(start), Bound::Included(end))).next()
        {
            self.ranges.remove(&after);
            self.bytes -= definite(after, after_end);
            end = end.max(after_end);
        }
        self.ranges.insert(start, end);
        self.bytes += definite(start, end);
        self.recent = Extent { start, end };
    }

    /// Add all bytes of another set.
    pub fn insert_all(&mut self, other: &ExtentSet) {
        if self.is_empty() {
            self.clone_from(other);
        } else {
            other.iter().for_each(|extent| self.insert(extent));
        }
    }

    /// Take the bytes of a range out; a range that has bytes on both sides is split.
    pub fn subtract(&mut self, extent: Extent) {
        if extent.is_empty() || self.is_empty() {
            return;
        }
        self.recent = Extent::default();
        if let Some((&before, &before_end)) = self.ranges.range(..extent.start).next_back()
            && before_end > extent.start
        {
            self.ranges.insert(before, extent.start);
            self.bytes -= definite(before, before_end);
            self.bytes += definite(before, extent.start);
            self.insert_rest(extent.end, before_end);
        }
        while let Some((&start, &end)) = self.ranges.range(extent.start..extent.end).next() {
            self.ranges.remove(&start);
            self.bytes -= definite(start, end);
            self.insert_rest(extent.end, end);
        }
    }

    /// Put back what is left of a range behind the bytes that were taken.
    fn insert_rest(&mut self, start: u64, end: u64) {
        if start < end {
            self.ranges.insert(start, end);
            self.bytes += definite(start, end);
        }
    }

    /// Take all bytes of another set out.
    pub fn subtract_all(&mut self, other: &ExtentSet) {
        if self.is_empty() {
            return;
        }
        other.iter().for_each(|extent| self.subtract(extent));
    }

    /// Take the bytes from `at` on out of the set and return them.
    #[must_use]
    pub fn split_off(&mut self, at: u64) -> ExtentSet {
        let tail = self.intersection(Extent { start: at, end: Extent::END });
        self.subtract(Extent { start: at, end: Extent::END });
        tail
    }

    /// The bytes of the set that lie in the range.
    #[must_use]
    pub fn intersection(&self, extent: Extent) -> ExtentSet {
        self.overlapping(extent).map(|found| found.intersection(extent)).collect()
    }

    /// The ranges, whole, that have a byte in common with `extent`, in ascending order.
    pub fn overlapping(&self, extent: Extent) -> impl Iterator<Item = Extent> + '_ {
        let from = self
            .ranges
            .range(..=extent.start)
            .next_back()
            .filter(|&(_, &end)| end > extent.start)
            .map_or(extent.start, |(&start, _)| start);
        let to = if extent.is_empty() { from } else { extent.end };
        self.ranges.range(from..to.max(from)).map(|(&start, &end)| Extent { start, end })
    }

    /// Whether the set has a byte of the range.
    #[must_use]
    pub fn overlaps(&self, extent: Extent) -> bool {
        self.overlapping(extent).next().is_some()
    }

    /// Whether the set has every byte of the range.
    #[must_use]
    pub fn contains(&self, extent: Extent) -> bool {
        extent.is_empty() || self.overlapping(extent).next().is_some_and(|found| found.contains(extent))
    }

    /// Take up to `bytes_max` bytes of the first range out.
    pub fn pop_front(&mut self, bytes_max: u64) -> Option<Extent> {
        self.pop_from(0, bytes_max)
    }

    /// Take up to `bytes_max` bytes of the first range at or behind `cursor` out; a range that begins before it is cut
    /// there. `None` when nothing is left behind the cursor.
    pub fn pop_from(&mut self, cursor: u64, bytes_max: u64) -> Option<Extent> {
        let behind = Extent { start: cursor, end: Extent::END };
        let found = self.overlapping(behind).next()?.intersection(behind);
        let taken = Extent { start: found.start, end: found.end.min(found.start.saturating_add(bytes_max)) };
        if taken.is_empty() {
            return None;
        }
        self.subtract(taken);
        Some(taken)
    }

    /// When there are more than `limit` ranges: round them outward to 4 KiB, 16 KiB, 64 KiB, ... until at most `limit / 2`
    /// (at least one) are left, in the end the whole file. Only ever adds bytes. Returns whether it did anything.
    pub fn widen(&mut self, limit: usize) -> bool {
        if self.count() <= limit.max(1) {
            return false;
        }
        let target = (limit / 2).max(1);
        let mut granule = GRANULE_MIN;
        while self.rounded(granule).count() > target {
            let Some(larger) = granule.checked_mul(GRANULE_GROWTH) else {
                *self = ExtentSet::from_iter([Extent::WHOLE]);
                return true;
            };
            granule = larger;
        }
        let rounded: Vec<(u64, u64)> =
            self.rounded(granule).map(|extent| (extent.start, extent.end)).collect();
        self.bytes = rounded.iter().map(|&(start, end)| definite(start, end)).sum();
        self.ranges = rounded.into_iter().collect();
        self.recent = Extent::default();
        true
    }

    /// The ranges rounded outward to the granule and joined where they then touch.
    fn rounded(&self, granule: u64) -> impl Iterator<Item = Extent> + '_ {
        let mut ranges = self.iter().map(move |extent| Extent {
            start: extent.start - extent.start % granule,
            end: extent.end.checked_next_multiple_of(granule).unwrap_or(Extent::END),
        });
        let mut open = ranges.next();
        core::iter::from_fn(move || {
            let mut current = open.take()?;
            for next in ranges.by_ref() {
                if next.start > current.end {
                    open = Some(next);
                    break;
                }
                current.end = current.end.max(next.end);
            }
            Some(current)
        })
    }
}
