//! Whether a session goes on where the last one ended, or compares everything.
//!
//! A secondary that was not restarted still knows which of its files is which of the primary's, and holds what it had received;
//! a primary that was not restarted knows what it had sent, and has kept the marks of all that was not confirmed and of all
//! that changed since. Then only what is marked has to travel. Both facts live in memory, so that a crash of either
//! node ends them without anybody having to notice; an orderly stop keeps them ([`crate::checkpoint`]). What is on record goes on over a crash of one node
//! ([`crate::activity`], [`crate::recovery`]). In any doubt everything is compared.

use crate::ids::{Generation, Sequence};
use crate::wire::body::Holding;

/// Identity of a stream of frames: unlike a session's number, never used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamId {
    /// Random bytes of the primary's present run.
    pub incarnation: [u8; 16],
    /// Number of the session in that run.
    pub number: u64,
}

/// What a secondary holds: all frames of the stream up to a position are applied, or will be before any later frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// The stream.
    pub stream: StreamId,
    /// The last frame that arrived.
    pub received: Sequence,
}

/// What a primary remembers of its last stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastStream {
    /// The stream.
    pub stream: StreamId,
    /// Frames up to this one arrived, by the peer's own word.
    pub proven: Sequence,
    /// Frames up to this one were sent.
    pub queued: Sequence,
    /// What the peer held when the stream began, unless everything was to be compared: what it still holds if not even the first
    /// frame arrived.
    pub before: Option<Held>,
}

/// How a session begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beginning {
    /// Where the last one ended.
    Resumed,
    /// Where the last one ended in which the peer was the primary ([`crate::succession`]).
    Succeeded,
    /// Where the last one was durable at the peer, which crashed ([`crate::recovery`]).
    Recovered,
    /// Both trees are compared.
    Compared(Why),
}

/// Why everything is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The primary was started, and does not know what the peer has.
    Started,
    /// Something was or may have been changed that nobody told of.
    Untold,
    /// The last session ended by an error.
    Failed,
    /// The peer, or this node, does not know how to go on.
    Unable,
    /// The secondary was started, could not apply or make durable something, or others changed its copy.
    NothingHeld,
    /// The secondary holds something of another stream.
    OtherStream,
    /// The secondary holds less than it had said it has, or more than it was sent.
    Position,
    /// The secondary has a generation that the primary has not.
    Generation,
    /// An operator said that the primary's data is to replace the secondary's.
    Overruled,
    /// Seen from the secondary: the primary said so.
    Primary,
}

impl Beginning {
    /// The same in words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Beginning::Resumed => "resumed",
            Beginning::Succeeded => "gone on from the other node's last session as the primary",
            Beginning::Recovered => "gone on from what the secondary had durably",
            Beginning::Compared(why) => why.text(),
        }
    }
}

impl Why {
    const fn text(self) -> &'static str {
        match self {
            Why::Started => "the primary was started",
            Why::Untold => "changes were lost, or may have been",
            Why::Failed => "the last session ended by an error",
            Why::Unable => "one of the nodes cannot resume",
            Why::NothingHeld => "the secondary was started, failed, or its copy was changed",
            Why::OtherStream => "the secondary holds another stream",
            Why::Position => "the secondary is at a position that cannot be",
            Why::Generation => "the secondary has a generation that the primary has not",
            Why::Overruled => "an operator said that the primary's data is to replace the secondary's",
            Why::Primary => "the primary said so",
        }
    }
}

/// How a session begins, given what this primary remembers (or why it remembers nothing), its generation, and what the
/// secondary says. `former`: streams of a run of this primary that crashed. Whatever was in doubt of them is marked ([`crate::activity`]), so
/// that the secondary may hold any of them, up to any position.
#[must_use]
pub fn decide(
    last: Result<LastStream, Why>,
    former: &[StreamId],
    generation: Generation,
    holding: Holding,
) -> Beginning {
    let last = match last {
        Ok(last) => last,
        Err(why) => return Beginning::Compared(why),
    };
    let Some(held) = holding.held else { return Beginning::Compared(Why::NothingHeld) };
    if holding.generation > generation {
        return Beginning::Compared(Why::Generation);
    }
    // A stream that is held began: its first frame arrived.
    if former.contains(&held.stream) {
        let possible = held.received >= Sequence(1);
        return if possible { Beginning::Resumed } else { Beginning::Compared(Why::Position) };
    }
    if held.stream == last.stream {
        let possible = held.received >= last.proven.max(Sequence(1)) && held.received <= last.queued;
        return if possible { Beginning::Resumed } else { Beginning::Compared(Why::Position) };
    }
    match last.before {
        Some(before) if before.stream == held.stream => {
            let untouched = before == held && last.proven == Sequence(0);
            if untouched { Beginning::Resumed } else { Beginning::Compared(Why::Position) }
        }
        _ => Beginning::Compared(Why::OtherStream),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(number: u64) -> StreamId {
        StreamId { incarnation: [7; 16], number }
    }

    fn held(number: u64, received: u64) -> Option<Held> {
        Some(Held { stream: stream(number), received: Sequence(received) })
    }

    /// A stream with number 2 of which 10 frames were sent, for all of them, whatever is remembered and whatever is said.
    #[test]
    fn every_combination_is_decided() {
        use Beginning::{Compared, Resumed};
        let remembered = |proven, before| {
            let (stream, proven, queued) = (stream(2), Sequence(proven), Sequence(10));
            Ok(LastStream { stream, proven, queued, before })
        };
        let other_run =
            Some(Held { stream: StreamId { incarnation: [8; 16], number: 2 }, received: Sequence(5) });
        let table = [
            // What is said; with nothing remembered; nothing proven; proven up to 5; gone on from 1@9, nothing proven; the same,
            // proven up to 5.
            (None, [Why::NothingHeld; 4].map(Compared)),
            (held(2, 0), [Why::Position; 4].map(Compared)),
            (held(2, 1), [Resumed, Compared(Why::Position), Resumed, Compared(Why::Position)]),
            (held(2, 4), [Resumed, Compared(Why::Position), Resumed, Compared(Why::Position)]),
            (held(2, 5), [Resumed; 4]),
            (held(2, 10), [Resumed; 4]),
            (held(2, 11), [Why::Position; 4].map(Compared)),
            (held(1, 8), [Why::OtherStream, Why::OtherStream, Why::Position, Why::Position].map(Compared)),
            (
                held(1, 9),
                [Compared(Why::OtherStream), Compared(Why::OtherStream), Resumed, Compared(Why::Position)],
            ),
            (held(1, 10), [Why::OtherStream, Why::OtherStream, Why::Position, Why::Position].map(Compared)),
            (held(3, 5), [Why::OtherStream; 4].map(Compared)),
            (other_run, [Why::OtherStream; 4].map(Compared)),
        ];
        let memories =
            [remembered(0, None), remembered(5, None), remembered(0, held(1, 9)), remembered(5, held(1, 9))];
        for (said, outcomes) in table {
            for (last, outcome) in memories.into_iter().zip(outcomes) {
                for generation in [3, 4] {
                    let holding = Holding { generation: Generation(generation), held: said };
                    assert_eq!(decide(last, &[], Generation(4), holding), outcome, "{last:?} {said:?}");
                }
                let newer = Holding { generation: Generation(5), held: said };
                assert!(matches!(decide(last, &[], Generation(4), newer), Compared(_)), "{last:?} {said:?}");
            }
            for why in [Why::Started, Why::Untold, Why::Failed, Why::Unable] {
                let holding = Holding { generation: Generation(4), held: said };
                assert_eq!(decide(Err(why), &[stream(2)], Generation(4), holding), Compared(why));
            }
        }
    }

    /// After a crash of the primary the secondary may hold any stream of that run, up to any position; none of another run, and of no newer
    /// generation.
    #[test]
    fn streams_of_a_run_that_crashed_are_gone_on_from() {
        let last = |number| {
            let (proven, queued) = (Sequence(0), Sequence(u64::MAX));
            Ok(LastStream { stream: stream(number), proven, queued, before: None })
        };
        let former = [stream(2), stream(3)];
        let decided = |held, generation| {
            decide(last(3), &former, Generation(4), Holding { generation: Generation(generation), held })
        };
        for number in [2, 3] {
            for received in [1, 5, u64::MAX] {
                assert_eq!(decided(held(number, received), 4), Beginning::Resumed);
                assert_eq!(decided(held(number, received), 5), Beginning::Compared(Why::Generation));
            }
            assert_eq!(decided(held(number, 0), 4), Beginning::Compared(Why::Position));
        }
        assert_eq!(decided(held(1, 5), 4), Beginning::Compared(Why::OtherStream));
        assert_eq!(decided(None, 4), Beginning::Compared(Why::NothingHeld));
    }
}
