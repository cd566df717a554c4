//! What breaks, and the end of that.

use replicator_core::cluster::Event;

use super::mirror::End;
use super::world::{Happening, MS, SECOND, World};

impl World {
    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.below(2 * self.shape.fault_every);
        self.after(pause, Happening::Fault);
        let total: usize = self.shape.weights.iter().sum();
        let mut drawn = self.random.below(total.max(1));
        let kind = self.shape.weights.iter().position(|weight| {
            let hit = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            hit
        });
        self.stats.faults += 1;
        let node = self.random.below(2);
        match kind {
            Some(0) => self.crash_machine(node),
            Some(1) => self.crash_daemon(node),
            Some(2) => self.mirror_dies(node),
            Some(3) => self.cut_one(node),
            Some(4) => self.isolate(),
            Some(5) => self.break_link(),
            Some(6) => self.lose_arbiter(node),
            Some(7) => self.pause_some(node),
            Some(8) => self.flap(),
            Some(9) => (0..2).for_each(|node| self.crash_machine(node)),
            Some(10) => self.lame(node),
            Some(11) => self.deliver_rival(node),
            _ => {}
        }
    }

    fn mirror_dies(&mut self, node: usize) {
        let Some(run) = self.nodes[node].process.as_ref().map(|process| process.run) else { return };
        if !self.nodes[node].runs() {
            return;
        }
        self.say(|_| format!("{node}: the mirror's process ends"));
        self.checks.no_flap.reason();
        self.end_process(node, End::Killed);
        if let Some(epoch) = self.nodes[node].daemon.as_ref().map(|daemon| daemon.epoch) {
            let delay = self.between(MS / 10, 20 * MS);
            self.after(delay, Happening::MirrorEnded { node, epoch, run });
        }
    }

    /// One path in one direction.
    fn cut_one(&mut self, from: usize) {
        let path = self.random.below(self.shape.paths);
        let span = self.between(200 * MS, 15 * SECOND);
        self.cut_path(from, path, span);
    }

    fn cut_path(&mut self, from: usize, path: usize, span: u64) {
        self.say(|_| format!("path {path} from {from} breaks for {} ms", span / MS));
        self.paths[from][path] = false;
        self.after(span, Happening::PathUp { from, path });
    }

    /// All heartbeats, and mostly the link, too; sometimes in one direction only.
    fn isolate(&mut self) {
        let span = self.between(SECOND, 20 * SECOND);
        let both = self.random.chance(80);
        let from = self.random.below(2);
        for path in 0..self.shape.paths {
            self.cut_path(from, path, span);
            if both {
                self.cut_path(1 - from, path, span);
            }
        }
        if self.random.chance(80) {
            self.cut_link(span);
        }
        if self.random.chance(20) {
            self.lose_arbiter(from);
        }
    }

    fn break_link(&mut self) {
        let span = self.between(10 * MS, 15 * SECOND);
        self.say(|_| format!("the link breaks for {} ms", span / MS));
        self.cut_link(span);
    }

    fn lose_arbiter(&mut self, node: usize) {
        self.arbiter_up[node] = false;
        let span = self.between(SECOND, 20 * SECOND);
        self.after(span, Happening::ArbiterUp { node });
    }

    fn pause_some(&mut self, node: usize) {
        let long = self.random.chance(60);
        let span = if long { self.between(SECOND, 20 * SECOND) } else { self.between(20 * MS, SECOND) };
        if self.random.chance(25) {
            // It goes on where nobody can tell it what happened.
            let span = span + 25 * SECOND;
            for path in 0..self.shape.paths {
                (0..2).for_each(|from| self.cut_path(from, path, span));
            }
            self.cut_link(span);
            self.arbiter_up[node] = false;
            self.after(span, Happening::ArbiterUp { node });
        }
        self.pause(node, span);
    }

    /// Everything between the nodes goes for a short while.
    fn flap(&mut self) {
        let span = self.between(50 * MS, 900 * MS);
        for from in 0..2 {
            for path in 0..self.shape.paths {
                self.cut_path(from, path, span);
            }
        }
        self.cut_link(span);
    }

    /// The conditions to run the application go, or come back.
    fn lame(&mut self, node: usize) {
        self.nodes[node].able ^= true;
        self.checks.no_flap.reason();
        let able = self.nodes[node].able;
        if self.nodes[node].runs() {
            self.deliver(node, Event::Able(able));
        }
    }

    fn deliver_rival(&mut self, node: usize) {
        if self.nodes[node].runs() {
            self.deliver(node, Event::Rival);
        }
    }

    /// Where the daemon that has so many orders to carry out ends.
    pub(super) fn cut(&mut self, node: usize, orders: usize) -> Option<usize> {
        let cuts = orders > 0 && !self.calm && self.shape.weights[1] > 0 && self.random.below(400) == 0;
        (cuts && self.nodes[node].up).then(|| self.random.below(orders))
    }

    pub(super) fn end_trouble(&mut self) {
        self.say(|_| "no more faults".into());
        (self.calm, self.calm_since) = (true, self.now);
        (self.link, self.arbiter_up) = (true, [true; 2]);
        self.paths.iter_mut().for_each(|paths| paths.fill(true));
        for node in 0..2 {
            self.nodes[node].able = true;
            if self.nodes[node].paused.is_some() {
                self.resume(node);
            }
            self.boot(node);
            self.deliver(node, Event::Able(true));
        }
        self.after(100 * MS, Happening::Operator);
    }
}
