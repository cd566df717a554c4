//! Heartbeats: several paths, each lossy by itself and in each direction by itself; silence is counted in own beats.

use replicator_core::cluster::{Event, Report};

use super::world::{Happening, MS, World};

pub const BEAT: u64 = 250 * MS;
/// A peer that was not heard for so many own beats is not there.
const DEAD: u32 = 12;

/// What a node says on all paths.
#[derive(Clone, Debug)]
pub struct Packet {
    pub epoch: u64,
    pub sequence: u64,
    /// What it heard last.
    pub echo: (u64, u64),
    /// It hears the other.
    pub hears: bool,
    pub report: Option<Report>,
}

/// A node's own account of that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heart {
    pub sequence: u64,
    /// Heard last: run and number.
    pub heard: (u64, u64),
    /// Own beats since.
    pub silence: u32,
    pub heard_ever: bool,
    /// The peer says that it hears this node.
    pub is_heard: bool,
    pub alive: bool,
    /// After it was late: the peer has to have heard this.
    pub awaits: Option<u64>,
}

impl Heart {
    fn hears(&self) -> bool {
        self.heard_ever && self.silence < DEAD
    }
}

impl World {
    pub(super) fn beat(&mut self, node: usize, epoch: u64) {
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        if daemon.epoch != epoch {
            return;
        }
        daemon.heart.silence = daemon.heart.silence.saturating_add(1);
        self.after(BEAT, Happening::Beat { node, epoch });
        self.send_beat(node);
        self.judge(node);
    }

    pub(super) fn send_beat(&mut self, node: usize) {
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        let heart = &mut daemon.heart;
        heart.sequence += 1;
        let packet = Packet {
            epoch: daemon.epoch,
            sequence: heart.sequence,
            echo: heart.heard,
            hears: heart.hears(),
            report: daemon.say,
        };
        for path in 0..self.shape.paths {
            let lost = !self.calm && self.random.chance(self.shape.beat_loss);
            if !self.paths[node][path] || lost {
                continue;
            }
            let slow = !self.calm && self.random.chance(3);
            let delay = if slow { self.between(10 * MS, 1500 * MS) } else { self.between(MS / 10, 5 * MS) };
            self.after(delay, Happening::Packet { to: 1 - node, packet: Box::new(packet.clone()) });
        }
    }

    pub(super) fn packet(&mut self, node: usize, packet: &Packet) {
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        let heart = &mut daemon.heart;
        // Played again, or overtaken.
        if (packet.epoch, packet.sequence) <= heart.heard {
            return;
        }
        heart.heard = (packet.epoch, packet.sequence);
        (heart.silence, heart.heard_ever) = (0, true);
        heart.is_heard = packet.hears && packet.echo.0 == daemon.epoch;
        let echoed = heart.awaits.is_some_and(|awaits| packet.echo >= (daemon.epoch, awaits));
        if let Some(report) = packet.report {
            self.deliver(node, Event::Heard(report));
        }
        self.judge(node);
        if let Some(daemon) = self.nodes[node].daemon.as_mut().filter(|_| echoed) {
            daemon.heart.awaits = None;
            self.deliver(node, Event::Echoed);
        }
    }

    /// Tell the controller whether each hears the other, if that changed.
    fn judge(&mut self, node: usize) {
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        let heart = &mut daemon.heart;
        let alive = heart.hears() && heart.is_heard;
        if alive != heart.alive {
            heart.alive = alive;
            self.say(|_| format!("{node}: peer alive {alive}"));
            if !alive {
                self.checks.no_flap.reason();
            }
            self.deliver(node, Event::PeerAlive(alive));
        }
    }
}
