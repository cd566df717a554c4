//! Builds that are broken on purpose: each is to be caught, by the checker of a promise it breaks, within a few hundred seeds. A
//! checker that no saboteur sets off shows nothing.

use crate::{Setting, World};

/// What is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// Nothing.
    None,
    /// The secondary says "durable" of what is not.
    LyingDisk,
    /// Now and then a sync of the secondary fails, and is told as if it had not.
    HiddenFailure,
    /// A local sync that failed is told as if another try had made it good.
    RetriedSync,
    /// Barriers are answered when they are sent.
    EarlyBarrierDone,
    /// Writes are not captured.
    LostWrites,
    /// Callers are let go at once.
    EarlyRelease,
    /// That events were lost is not told.
    UntoldLosses,
    /// What the digests say to differ is not sent.
    LostCompare,
    /// What was received and not applied when a session ended is not applied after it.
    DropsWhatIsLeft,
    /// Frames of a connection that ended arrive in the next one.
    OldFrames,
    /// The secondary's machine crashes, and its daemon does not notice that.
    UnnoticedCrash,
    /// The secondary does not know where its data comes from.
    ForgottenLineage,
    /// Namespace operations are lost while there is no session.
    LostNames,
    /// What was changed while the primary was stopped is not looked for.
    UnseenChanges,
    /// The primary's record is told to be durable, and is not written.
    LyingRecord,
    /// That a checkpoint was used is not made durable: after a power cut it is used again.
    UnsyncedRemoval,
    /// A file is changed before it is durably in the safe set.
    UnwaitedIntent,
    /// A file leaves the safe set before this node has it durably.
    EarlySettle,
    /// A list counts for answered before it is.
    EarlyAnswer,
    /// A secondary that was stopped so that it can be promoted confirms what it has received.
    ConfirmsSealed,
    /// A secondary is promoted though the primary went on without it.
    PromotesOutdated,
    /// A primary is told that it may go on alone under the number it has, so that a secondary with that number looks as if it had everything.
    UncountedTerm,
    /// A secondary does not record whose frames it takes.
    UnrecordedTerm,
    /// A primary does not wait until it is told that it may go on alone.
    UnaskedRelease,
    /// A former primary does not say what of its copy may differ.
    WithheldLegacy,
    /// A secondary confirms before it has on record which file is which, and does not tell what after a crash is not as recorded.
    StaleRegister,
    /// What is to be applied in order is applied as it comes.
    OutOfOrder,
}

impl Sabotage {
    /// The world it is about.
    #[must_use]
    pub fn setting(self) -> Setting {
        match self {
            Sabotage::ConfirmsSealed
            | Sabotage::PromotesOutdated
            | Sabotage::UncountedTerm
            | Sabotage::UnrecordedTerm
            | Sabotage::UnaskedRelease
            | Sabotage::WithheldLegacy => Setting::Roles,
            _ => Setting::Fixed,
        }
    }
}

/// Every saboteur, and the promise it breaks.
pub const ALL: &[(Sabotage, &str)] = &[
    (Sabotage::LyingDisk, "acknowledged-is-durable"),
    (Sabotage::HiddenFailure, "acknowledged-is-durable"),
    (Sabotage::RetriedSync, "acknowledged-is-durable"),
    (Sabotage::EarlyBarrierDone, "acknowledged-is-durable"),
    (Sabotage::EarlyBarrierDone, "prefix"),
    (Sabotage::LostWrites, "nothing-forgotten"),
    (Sabotage::LostWrites, "no-false-difference"),
    (Sabotage::EarlyRelease, "acknowledged-is-durable"),
    (Sabotage::UntoldLosses, "nothing-forgotten"),
    (Sabotage::LostCompare, "same-tree"),
    (Sabotage::DropsWhatIsLeft, "same-tree"),
    (Sabotage::OldFrames, "one-stream"),
    (Sabotage::UnnoticedCrash, "same-tree"),
    (Sabotage::ForgottenLineage, "nothing-thrown-away"),
    (Sabotage::LostNames, "same-tree"),
    (Sabotage::UnseenChanges, "same-tree"),
    (Sabotage::LyingRecord, "stale-never-promotes"),
    (Sabotage::UnsyncedRemoval, "same-tree"),
    (Sabotage::UnwaitedIntent, "same-tree"),
    (Sabotage::ConfirmsSealed, "acknowledged-is-durable"),
    (Sabotage::PromotesOutdated, "stale-never-promotes"),
    (Sabotage::UncountedTerm, "stale-never-promotes"),
    (Sabotage::UnrecordedTerm, "term-is-known"),
    (Sabotage::UnaskedRelease, "one-acknowledger"),
    (Sabotage::WithheldLegacy, "same-tree"),
    (Sabotage::StaleRegister, "same-tree"),
    (Sabotage::OutOfOrder, "same-tree"),
    (Sabotage::EarlySettle, "same-tree"),
    (Sabotage::EarlyAnswer, "same-tree"),
];

/// The first of so many seeds with which the checker of that promise catches the saboteur, and what it says.
#[must_use]
pub fn caught(sabotage: Sabotage, promise: &str, seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| {
        let reason = World::new(seed, sabotage.setting(), sabotage, false).run().err()?;
        reason.starts_with(promise).then_some((seed, reason))
    })
}
