//! Where a node's data comes from: its generation, the one it last shared with the peer, and the ones before.
//!
//! A generation is a stretch of history in which both nodes hold the same, or one of them goes on alone. It has a number, which
//! only rises along a history, and a random tag: two nodes that both went on alone from the same generation have the same number and
//! different tags, so two histories never look alike. Which of two nodes holds what the other lacks is found from both lineages
//! ([`crate::reunion`]); never from a clock, and never from the number alone.

use core::fmt;

use crate::ids::Generation;

/// Random bytes of a generation, drawn by the node that began it. Zero: it was begun by a build that drew none (state file of version
/// 1, protocol up to version 3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tag(pub u64);

/// A generation as one of all that ever were.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GenerationId {
    /// Its place in its history; zero is no generation.
    pub number: Generation,
    /// What tells it from others with the number.
    pub tag: Tag,
}

/// Whether two ids stand for the same generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Match {
    /// They do.
    Exact,
    /// The numbers are the same, and at least one of them has no tag: nothing better is known of what an older build left.
    ByNumber,
    /// They do not.
    No,
}

impl GenerationId {
    /// No generation: nothing is known of the data, or there is none.
    pub const NONE: GenerationId = GenerationId { number: Generation(0), tag: Tag(0) };

    /// A generation of a build that drew no tags.
    #[must_use]
    pub const fn untagged(number: Generation) -> GenerationId {
        GenerationId { number, tag: Tag(0) }
    }

    /// The generation that is written so ([`fmt::Display`]); `None` for anything else, "none" among it.
    #[must_use]
    pub fn parse(text: &str) -> Option<GenerationId> {
        let (number, tag) = text.split_once('-')?;
        let is_written_so = tag.len() == 16 && !number.starts_with(['+', '0']) && !tag.starts_with('+');
        let number = number.parse().ok().filter(|_| is_written_so)?;
        Some(GenerationId { number: Generation(number), tag: Tag(u64::from_str_radix(tag, 16).ok()?) })
    }

    /// Whether it is no generation.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.number.0 == 0
    }

    /// Whether both are the same generation. None is the same as nothing.
    #[must_use]
    pub fn matches(self, other: GenerationId) -> Match {
        if self.is_none() || self.number != other.number {
            return Match::No;
        }
        match (self.tag, other.tag) {
            (Tag(0), _) | (_, Tag(0)) => Match::ByNumber,
            (one, two) if one == two => Match::Exact,
            _ => Match::No,
        }
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() { f.write_str("none") } else { write!(f, "{}-{:016x}", self.number.0, self.tag.0) }
    }
}

impl fmt::Debug for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How many former generations are remembered. What is older is not recognised, and refused instead of taken for something else.
pub const HISTORY: usize = 12;

/// The generations of a node's data.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Lineage {
    /// The present one; none: this node has no data that counts.
    pub current: GenerationId,
    /// While this node holds what the peer may lack: the generation that both had last. What is marked for the peer counts from it.
    pub shared: GenerationId,
    /// Those before, the newest first; the rest is none.
    pub history: [GenerationId; HISTORY],
}

impl Lineage {
    /// That of a node whose data begins with this generation.
    #[must_use]
    pub fn beginning_with(current: GenerationId) -> Lineage {
        Lineage { current, ..Lineage::default() }
    }

    /// That of a node of which only a number is known.
    #[must_use]
    pub fn untagged(number: Generation) -> Lineage {
        Lineage::beginning_with(GenerationId::untagged(number))
    }

    /// The former generations that are remembered.
    pub fn former(&self) -> impl Iterator<Item = GenerationId> + '_ {
        self.history.iter().copied().filter(|id| !id.is_none())
    }

    /// This node begins a generation of its own. `exposed`: the peer may take itself for up to date with the present one, so that
    /// it is the one that both had last; else that stays the one it was.
    pub fn begin_generation(&mut self, tag: Tag, exposed: bool) {
        let former = self.current;
        if exposed || self.shared.is_none() {
            self.remember(self.shared);
            self.shared = former;
        } else {
            self.remember(former);
        }
        let highest = self.former().chain([former, self.shared]).map(|id| id.number).max();
        self.current = GenerationId { number: highest.unwrap_or_default().next(), tag };
    }

    /// Both nodes hold the present generation.
    pub fn share(&mut self) {
        let shared = core::mem::take(&mut self.shared);
        self.remember(shared);
    }

    /// This node has become a copy of the peer's data: the peer's lineage is its own from now on.
    pub fn adopt(&mut self, peer: &Lineage) {
        *self = *peer;
        self.share();
    }

    /// This node's data is going to be replaced by what does not go on from it. From here on it has no generation.
    pub fn give_up(&mut self) {
        let (current, shared) = (self.current, self.shared);
        (self.current, self.shared) = (GenerationId::NONE, GenerationId::NONE);
        self.remember(shared);
        self.remember(current);
    }

    /// Remember one as the newest; what is too old is forgotten.
    fn remember(&mut self, id: GenerationId) {
        if id.is_none() || self.history.first() == Some(&id) {
            return;
        }
        self.history.rotate_right(1);
        if let Some(first) = self.history.first_mut() {
            *first = id;
        }
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.current)?;
        if !self.shared.is_none() {
            write!(f, ", shared {}", self.shared)?;
        }
        f.write_str(", before ")?;
        f.debug_list().entries(self.former()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64, tag: u64) -> GenerationId {
        GenerationId { number: Generation(number), tag: Tag(tag) }
    }

    #[test]
    fn a_generation_is_its_number_and_its_tag() {
        assert_eq!(id(3, 7).matches(id(3, 7)), Match::Exact);
        assert_eq!(id(3, 7).matches(id(3, 8)), Match::No);
        assert_eq!(id(3, 7).matches(id(4, 7)), Match::No);
        assert_eq!(id(3, 0).matches(id(3, 8)), Match::ByNumber);
        assert_eq!(id(3, 0).matches(id(3, 0)), Match::ByNumber);
        assert_eq!(GenerationId::NONE.matches(GenerationId::NONE), Match::No);
    }

    #[test]
    fn a_generation_is_read_as_it_is_written() {
        for written in [id(1, 0), id(77, 0xAB), id(u64::MAX, u64::MAX)] {
            assert_eq!(GenerationId::parse(&alloc::format!("{written}")), Some(written));
        }
        for text in [
            "",
            "none",
            "5",
            "5-",
            "0-00000000000000ab",
            "+5-00000000000000ab",
            "5-+0000000000000ab",
            "5-00000000000000abc",
        ] {
            assert_eq!(GenerationId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_shared_generation_stays_while_one_goes_on_alone_and_becomes_history_when_both_hold_the_same() {
        let mut lineage = Lineage::beginning_with(id(1, 10));
        lineage.begin_generation(Tag(20), true);
        assert_eq!((lineage.current, lineage.shared), (id(2, 20), id(1, 10)));
        // A restart while alone: the peer still has what it had.
        lineage.begin_generation(Tag(30), false);
        assert_eq!((lineage.current, lineage.shared), (id(3, 30), id(1, 10)));
        assert_eq!(lineage.former().collect::<alloc::vec::Vec<_>>(), [id(2, 20)]);
        // The peer may have recorded the end of a resync, or not.
        lineage.begin_generation(Tag(40), true);
        assert_eq!((lineage.current, lineage.shared), (id(4, 40), id(3, 30)));
        lineage.share();
        assert_eq!(lineage.shared, GenerationId::NONE);
        let former: alloc::vec::Vec<_> = lineage.former().collect();
        assert_eq!(former, [id(3, 30), id(1, 10), id(2, 20)]);
    }

    #[test]
    fn history_is_bounded_and_keeps_the_newest() {
        let mut lineage = Lineage::beginning_with(id(1, 1));
        for tag in 2..40 {
            lineage.begin_generation(Tag(tag), true);
            lineage.share();
        }
        assert_eq!(lineage.current, id(39, 39));
        let former: alloc::vec::Vec<_> = lineage.former().map(|id| id.number.0).collect();
        assert_eq!(former, (27..39).rev().collect::<alloc::vec::Vec<_>>());
    }

    #[test]
    fn a_copy_has_the_lineage_of_its_source() {
        let mut source = Lineage::beginning_with(id(1, 1));
        source.begin_generation(Tag(2), true);
        let mut copy = Lineage::beginning_with(id(2, 9));
        copy.give_up();
        assert!(copy.current.is_none());
        assert_eq!(copy.former().collect::<alloc::vec::Vec<_>>(), [id(2, 9)]);
        copy.adopt(&source);
        assert_eq!((copy.current, copy.shared), (id(2, 2), GenerationId::NONE));
        assert_eq!(copy.former().collect::<alloc::vec::Vec<_>>(), [id(1, 1)]);
    }
}
