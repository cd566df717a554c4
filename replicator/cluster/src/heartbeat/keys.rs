//! The keys of the MACs, and their change without an interruption.

use std::fmt;

const MAC_CONTEXT: &str = "replicator cluster 2026 heartbeat mac key v1";
const ID_CONTEXT: &str = "replicator cluster 2026 heartbeat key id v1";

/// The secret both nodes share for heartbeats.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// From 32 random bytes, or such as were derived from a longer secret.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Key {
        Key(bytes)
    }

    /// What it is named by.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let id = blake3::derive_key(ID_CONTEXT, &self.0);
        // The first eight of 32 bytes.
        KeyId(id.first_chunk().copied().unwrap_or_default())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(32 bytes)")
    }
}

/// What the MAC is made with.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct MacKey(pub [u8; 32]);

/// Names a key without telling anything of it. Zero names none.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyId(pub(crate) [u8; 8]);

impl KeyId {
    pub(crate) const NONE: KeyId = KeyId([0; 8]);
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({:016x})", u64::from_be_bytes(self.0))
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Slot {
    id: KeyId,
    mac: MacKey,
}

impl Slot {
    fn new(key: &Key) -> Slot {
        Slot { id: key.id(), mac: MacKey(blake3::derive_key(MAC_CONTEXT, &key.0)) }
    }
}

/// The key in use, and during a change its predecessor.
///
/// Each datagram names both keys its sender accepts. A node sends with the newest key of its own that the peer accepts, and forgets
/// the older one once the peer has sent with the newest for some ticks. So it does not matter which node is told first, nor how much
/// later the other is told; and while it is not told the old key stays good, which the snapshot shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Keyring {
    newest: Slot,
    older: Option<Slot>,
    /// The peer accepts the newest key, by what it said last.
    peer_accepts: bool,
    /// The peer sends with the newest key, and for how many of this node's ticks.
    peer_uses: Option<u32>,
    turn: bool,
}

impl Keyring {
    pub(crate) fn new(key: &Key) -> Keyring {
        let newest = Slot::new(key);
        Keyring { newest, older: None, peer_accepts: false, peer_uses: None, turn: false }
    }

    /// Accept a new key beside the one in use. The same key again changes nothing.
    pub(crate) fn rekey(&mut self, key: &Key) {
        let key = Slot::new(key);
        if key.id == self.newest.id {
            return;
        }
        // If a change is going on, the key the peer is known to have stays.
        let keep_older = self.older.is_some() && !self.peer_accepts;
        let former = std::mem::replace(&mut self.newest, key);
        if !keep_older {
            self.older = Some(former);
        }
        if self.older.as_ref().is_some_and(|older| older.id == self.newest.id) {
            self.older = None;
        }
        self.peer_accepts = false;
        self.peer_uses = None;
    }

    /// Is there an older key that is still accepted?
    pub(crate) fn is_changing(&self) -> bool {
        self.older.is_some()
    }

    /// Name of the newest key that is accepted.
    pub(crate) fn newest(&self) -> KeyId {
        self.newest.id
    }

    /// The key of that name, if it is accepted.
    pub(crate) fn find(&self, id: KeyId) -> Option<&MacKey> {
        let older = self.older.as_ref().filter(|older| older.id == id);
        older.or((self.newest.id == id).then_some(&self.newest)).map(|slot| &slot.mac)
    }

    /// The key to send with, its name, and the name of the other that is accepted. With a peer that is not `steady`, one that may have
    /// restarted with either key, they take turns.
    pub(crate) fn select(&mut self, steady: bool) -> (MacKey, KeyId, KeyId) {
        self.turn = !self.turn;
        let newest = if steady { self.peer_accepts } else { self.turn };
        match &self.older {
            Some(older) if newest => (self.newest.mac.clone(), self.newest.id, older.id),
            Some(older) => (older.mac.clone(), older.id, self.newest.id),
            None => (self.newest.mac.clone(), self.newest.id, KeyId::NONE),
        }
    }

    /// What the believed peer said last: the key it sent with, and the other one it accepts.
    pub(crate) fn note_peer(&mut self, key: KeyId, other: KeyId) {
        let uses = key == self.newest.id;
        self.peer_accepts = uses || other == self.newest.id;
        self.peer_uses = if uses { self.peer_uses.or(Some(0)) } else { None };
    }

    /// A tick on which the peer is alive. `enough`: after how many the older key is forgotten.
    pub(crate) fn tick(&mut self, enough: u32) {
        if let Some(ticks) = &mut self.peer_uses
            && self.older.is_some()
        {
            *ticks += 1;
            if *ticks >= enough {
                self.older = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::new([byte; 32])
    }

    /// One sends, the other takes note if it can read it.
    fn say(from: &mut Keyring, to: &mut Keyring) -> bool {
        let (_, id, other) = from.select(true);
        let understood = to.find(id).is_some();
        if understood {
            to.note_peer(id, other);
        }
        understood
    }

    #[test]
    fn a_key_tells_nothing_of_itself() {
        assert_eq!(format!("{:?}", key(7)), "Key(32 bytes)");
        assert_ne!(Slot::new(&key(7)).mac.0, [7; 32]);
    }

    #[test]
    fn whoever_is_told_first_nothing_is_lost_in_between() {
        for second in 0..40 {
            let (mut one, mut other) = (Keyring::new(&key(1)), Keyring::new(&key(1)));
            for round in 0..60 {
                if round == 3 {
                    one.rekey(&key(2));
                }
                if round == 3 + second {
                    other.rekey(&key(2));
                }
                assert!(say(&mut one, &mut other), "round {round}, second told after {second}");
                assert!(say(&mut other, &mut one), "round {round}, second told after {second}");
                one.tick(5);
                other.tick(5);
                assert!(round < 3 || round >= 3 + second || one.is_changing());
            }
            assert!(!one.is_changing() && !other.is_changing());
            assert!(one.find(Slot::new(&key(1)).id).is_none(), "the old key is forgotten");
        }
    }

    #[test]
    fn a_second_change_during_the_first_loses_nothing() {
        let (mut one, mut other) = (Keyring::new(&key(1)), Keyring::new(&key(1)));
        one.rekey(&key(2));
        one.rekey(&key(3));
        assert!(say(&mut one, &mut other) && say(&mut other, &mut one));
        other.rekey(&key(3));
        for _ in 0..20 {
            assert!(say(&mut one, &mut other) && say(&mut other, &mut one));
            one.tick(5);
            other.tick(5);
        }
        assert!(!one.is_changing() && !other.is_changing());
    }

    #[test]
    fn the_same_key_again_changes_nothing() {
        let mut ring = Keyring::new(&key(1));
        let before = ring.clone();
        ring.rekey(&key(1));
        assert!(ring == before);
    }

    #[test]
    fn a_peer_that_may_have_restarted_is_spoken_to_with_both() {
        let mut ring = Keyring::new(&key(1));
        ring.rekey(&key(2));
        let (_, first, _) = ring.select(false);
        let (_, second, _) = ring.select(false);
        assert_ne!(first, second);
    }
}
