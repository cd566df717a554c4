//! Byte ranges of one file, and sets of them.

/// A byte range of one file: `start..end`, `end` exclusive. [`Extent::END`] as `end` means "to the end of
/// the file, wherever that is when it is read".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
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
