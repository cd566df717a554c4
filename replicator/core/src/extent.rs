//! Byte ranges of one file, and sets of them.

mod set;
#[cfg(test)]
mod tests;

pub use set::ExtentSet;

/// Applying a hole at the end of a file touches nothing behind the next multiple of this (bytes): the largest block of a file
/// system that a hole is widened to.
pub const BLOCK_MAX: u64 = 64 << 10;

/// A byte range of one file: `start..end`, `end` exclusive. [`Extent::END`] as `end` means "to the end of
/// the file, wherever that is when it is read".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Extent {
    /// First byte.
    pub start: u64,
    /// First byte after the range.
    pub end: u64,
}

impl Extent {
    /// "To the end of the file."
    pub const END: u64 = u64::MAX;
    /// The whole file.
    pub const WHOLE: Extent = Extent { start: 0, end: Extent::END };

    /// The range of `length` bytes at `start`; saturates at [`Extent::END`].
    #[must_use]
    pub const fn at(start: u64, length: u64) -> Extent {
        Extent { start, end: start.saturating_add(length) }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn length(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether the range has no byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// Whether both ranges have a byte in common.
    #[must_use]
    pub const fn overlaps(self, other: Extent) -> bool {
        self.start < other.end && other.start < self.end
    }
}

impl Extent {
    /// The bytes both ranges have; empty (with `start == end`) where they have none.
    #[must_use]
    pub fn intersection(self, other: Extent) -> Extent {
        let start = self.start.max(other.start);
        Extent { start, end: self.end.min(other.end).max(start) }
    }

    /// Whether the range has every byte of `other` (an empty range is contained anywhere).
    #[must_use]
    pub const fn contains(self, other: Extent) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// Whether the range goes to the end of the file, wherever that is.
    #[must_use]
    pub const fn is_open(self) -> bool {
        self.end == Extent::END
    }
}
