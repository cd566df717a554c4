//! Callers that wait for durability: taken in, and let go.

use alloc::vec::Vec;

use crate::action::{Action, CloseReason, Notice, Phase};
use crate::config::Mode;
use crate::dirty::WaiterId;
use crate::event::SyncScope;
use crate::ids::{Errno, Ticket, Time};

use super::Primary;
use super::waiter::{Caller, Stage, WaitScope, Waiter};

/// errno(3) EIO.
const EIO: Errno = Errno(5);

impl Primary {
    pub(super) fn on_sync_requested(&mut self, ticket: Ticket, scope: SyncScope) {
        let id = self.new_waiter(match scope {
            SyncScope::File { file, data_only } => WaitScope::File(file, data_only),
            SyncScope::Volume(volume) => WaitScope::Volume(volume),
        });
        let sync = self.sync_local(scope, Some(id));
        self.pacing.on_asked(self.now);
        let held = self.session.as_ref().is_some_and(|session| session.resync.holds_callers());
        let caller =
            Caller { ticket, requested: self.now, sync, local: None, failed: None, released: false, held };
        if let Some(waiter) = self.waiters.get_mut(&id) {
            waiter.caller = Some(caller);
        }
        self.review = true;
        // Its marks are taken now, before anything else is done.
        self.review_callers();
    }

    /// Whether callers are answered without the peer now.
    fn is_local_only(&self) -> bool {
        let closing = self.session.as_ref().is_some_and(|session| session.resync.holds_callers());
        let alone = self.phase != Phase::Mirrored && self.is_alone() && !closing;
        self.deposed.is_none() && (alone || self.config.mode == Mode::Async)
    }

    /// Let go who has all that was asked for; begin with the peer's part where that is due.
    pub(super) fn review_callers(&mut self) {
        if !core::mem::take(&mut self.review) {
            return;
        }
        let local_only = self.is_local_only();
        let mirrored = self.phase == Phase::Mirrored;
        let ids: Vec<WaiterId> = self.waiters.keys().copied().collect();
        for id in ids {
            let Some(waiter) = self.waiters.get_mut(&id) else { continue };
            let starts = mirrored || waiter.caller.is_none();
            if waiter.stage == Stage::Held && starts && self.session.is_some() {
                self.start_waiter(id);
            } else if matches!(waiter.stage, Stage::Names(_) | Stage::Answers(_)) {
                self.advance_waiter(id);
            }
            self.review_caller(id, local_only);
        }
    }

    fn review_caller(&mut self, id: WaiterId, local_only: bool) {
        let Some(waiter) = self.waiters.get_mut(&id) else { return };
        let stage = waiter.stage;
        let Some(caller) = &mut waiter.caller else { return };
        let result = match (caller.local, caller.failed) {
            (Some(Err(errno)), _) | (_, Some(errno)) => Err(errno),
            (Some(Ok(())), None) if local_only || stage == Stage::Done => Ok(()),
            _ => return,
        };
        if !core::mem::replace(&mut caller.released, true) {
            let ticket = caller.ticket;
            if result.is_ok() && !caller.held {
                self.pacing.on_released(self.now, self.now.since(caller.requested));
            }
            self.out.push(Action::ReleaseBarrier { ticket, result });
            self.counters.released += u64::from(result.is_ok());
            self.counters.refused += u64::from(result.is_err());
        }
        // In async mode the barrier is sent though nobody waits for it.
        if result.is_err() || matches!(stage, Stage::Held | Stage::Done) {
            self.remove_waits(id);
            self.waiters.remove(&id);
        }
    }

    /// Bounds on waiting: a peer that is too slow is given up, and a caller without a peer gets an error.
    pub(super) fn check_callers(&mut self) {
        let (mut late, mut expired) = (false, Vec::new());
        for (id, waiter) in &self.waiters {
            let Some(caller) = waiter.caller.as_ref().filter(|caller| !caller.released) else { continue };
            if waiter.stage == Stage::Held {
                if self.now.since(caller.requested) >= self.config.hold_limit {
                    expired.push(*id);
                }
            } else if caller.local.is_some() && waiter.stage != Stage::Done {
                late |= self.awake.since(waiter.requested_awake) >= self.config.barrier_limit;
            }
        }
        if !expired.is_empty() {
            let tickets = u32::try_from(expired.len()).unwrap_or(u32::MAX);
            self.report(Notice::HoldExpired { tickets });
            for id in expired {
                self.refuse(id, EIO);
            }
        }
        if late {
            self.close(CloseReason::BarrierLate);
        }
    }

    fn refuse(&mut self, id: WaiterId, errno: Errno) {
        if let Some(Waiter { caller: Some(caller), .. }) = self.waiters.remove(&id) {
            self.out.push(Action::ReleaseBarrier { ticket: caller.ticket, result: Err(errno) });
            self.counters.refused += 1;
        }
    }

    /// When one of the bounds is reached.
    pub(super) fn caller_deadline(&self) -> Option<Time> {
        self.waiters
            .values()
            .filter_map(|waiter| {
                let caller = waiter.caller.as_ref().filter(|caller| !caller.released)?;
                match waiter.stage {
                    Stage::Held => Some(caller.requested.after(self.config.hold_limit)),
                    Stage::Done => None,
                    _ if caller.local.is_none() => None,
                    _ => {
                        let waited = self.awake.since(waiter.requested_awake);
                        Some(self.now.after(self.config.barrier_limit.saturating_sub(waited)))
                    }
                }
            })
            .min()
    }

    pub(super) fn waiting_callers(&self) -> usize {
        self.waiters.values().filter(|waiter| waiter.waits_for_caller()).count()
    }
}
