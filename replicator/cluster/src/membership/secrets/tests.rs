//! Tests of the shared secrets.

use proptest::prelude::*;

use super::{HEARTBEAT, KeyFile, Offer, SECRETS_BYTES, Secret, SecretError, Secrets, Taken};

fn secret(byte: u8) -> Secret {
    Secret([byte; 32])
}

fn pair() -> (Secrets, Secrets) {
    let alpha = Secrets::found().unwrap();
    (alpha.clone(), alpha)
}

/// Whether each accepts what the other sends.
fn hear_each_other(one: &Secrets, other: &Secrets) -> bool {
    other.heartbeat_keys().contains(&one.heartbeat_key())
        && one.heartbeat_keys().contains(&other.heartbeat_key())
}

#[test]
fn every_key_is_for_one_use() {
    let secrets = Secrets::found().unwrap();
    let keys = [
        secrets.heartbeat_key().key,
        secrets.file_key(KeyFile::Mirror),
        secrets.file_key(KeyFile::Witness),
        secrets.current.secret.clone(),
    ];
    for (place, key) in keys.iter().enumerate() {
        assert!(keys.iter().skip(place + 1).all(|other| other != key));
    }
    assert_eq!(
        secrets.heartbeat_key().key.0,
        blake3::derive_key("replicator cluster 2026 v1: heartbeat key", secrets.current.secret.bytes()),
        "a changed context ({HEARTBEAT}) would part nodes of two versions"
    );
}

#[test]
fn a_rotation_never_parts_the_nodes() {
    let (mut alpha, mut beta) = pair();
    for round in 1..4 {
        let offer = alpha.propose(secret(round)).unwrap();
        assert!(alpha.is_rotating() && hear_each_other(&alpha, &beta));
        assert_eq!(beta.take(offer).unwrap(), Taken::New);
        assert!(hear_each_other(&alpha, &beta));
        alpha.confirm(beta.number()).unwrap();
        assert!(!alpha.is_rotating() && hear_each_other(&alpha, &beta));
        if round == 2 {
            assert!(alpha.retire() && hear_each_other(&alpha, &beta));
            assert!(beta.retire() && hear_each_other(&alpha, &beta));
            assert_eq!(alpha.heartbeat_keys().len(), 1);
        }
    }
    assert_eq!((alpha.number(), beta.number()), (4, 4));
}

#[test]
fn every_step_may_be_repeated() {
    let (mut alpha, mut beta) = pair();
    let offer = alpha.propose(secret(1)).unwrap();
    assert_eq!(alpha.propose(secret(2)).unwrap(), offer, "a rotation under way goes on with its secret");
    assert_eq!(beta.take(offer.clone()).unwrap(), Taken::New);
    assert_eq!(beta.take(offer).unwrap(), Taken::Already);
    alpha.confirm(2).unwrap();
    alpha.confirm(2).unwrap();
    assert_eq!(alpha.confirm(9), Err(SecretError::NotOffered { confirmed: 9 }));
    assert!(hear_each_other(&alpha, &beta));
}

#[test]
fn a_node_that_was_away_for_several_rotations_takes_the_current_one() {
    let (mut alpha, mut beta) = pair();
    for round in 1..4 {
        alpha.propose(secret(round)).unwrap();
        alpha.confirm(u64::from(round) + 1).unwrap();
    }
    assert!(!hear_each_other(&alpha, &beta));
    assert_eq!(beta.take(alpha.offer()).unwrap(), Taken::New);
    assert!(hear_each_other(&alpha, &beta));
    let older = alpha.clone().take(Offer { number: 2, secret: secret(9) });
    assert_eq!(older, Err(SecretError::Older { offered: 2, current: 4 }));
}

#[test]
fn secrets_are_not_shown() {
    let secrets = Secrets::found().unwrap();
    let shown = format!("{secrets:?} {:?}", secrets.heartbeat_keys());
    for byte in secrets.current.secret.bytes() {
        assert!(!shown.contains(&format!("{byte}, ")), "{shown}");
    }
    assert!(!shown.contains(secrets.current.secret.hex().as_str()));
}

#[test]
fn an_offer_survives_the_way() {
    let offer = Offer { number: 7, secret: secret(0xab) };
    let text = serde_json::to_string(&offer).unwrap();
    assert_eq!(serde_json::from_str::<Offer>(&text).unwrap(), offer);
    for wrong in ["{}", r#"{"number":1,"secret":"ab"}"#, r#"{"number":1,"secret":"zz"}"#] {
        assert!(serde_json::from_str::<Offer>(wrong).is_err());
    }
}

#[test]
fn the_file_has_its_documented_form() {
    let secrets = Secrets {
        current: Offer { number: 3, secret: secret(1) },
        previous: Some(Offer { number: 2, secret: secret(2) }),
        next: None,
    };
    let bytes = secrets.encode();
    assert_eq!(bytes.len(), 168);
    assert_eq!(bytes[..16], *b"RPLSECRT\x01\0\0\0\xa8\0\0\0");
    assert_eq!((bytes[16], bytes[24], bytes[56], bytes[64]), (3, 1, 2, 2));
    assert_eq!(bytes[96..136], [0; 40]);
    assert_eq!(Secrets::decode(&bytes).unwrap(), secrets);
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert_eq!(Secrets::decode(&newer), Err(SecretError::Newer { found: 2 }));
}

/// What may happen in a rotation, in any order.
#[derive(Clone, Copy, Debug)]
enum Step {
    Propose {
        alpha: bool,
        byte: u8,
    },
    /// The offer arrives, and the confirmation if `back`.
    Offer {
        alpha: bool,
        back: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any::<bool>(), any::<u8>()).prop_map(|(alpha, byte)| Step::Propose { alpha, byte }),
        (any::<bool>(), any::<bool>()).prop_map(|(alpha, back)| Step::Offer { alpha, back }),
    ]
}

fn offer(from: &mut Secrets, to: &mut Secrets, back: bool) {
    let offer = from.offer();
    let number = offer.number;
    if to.take(offer).is_ok() && back {
        // Refused if the offerer has moved on meanwhile, which it has not here.
        from.confirm(number).unwrap();
    }
}

proptest! {
    /// Both may rotate at once, and messages may be lost: the nodes always hear each other, and agree once messages arrive.
    #[test]
    fn rotations_in_any_order_never_part_the_nodes(steps in prop::collection::vec(step(), 0..40)) {
        let (mut alpha, mut beta) = pair();
        for step in steps {
            match step {
                Step::Propose { alpha: true, byte } => drop(alpha.propose(secret(byte)).unwrap()),
                Step::Propose { alpha: false, byte } => drop(beta.propose(secret(byte)).unwrap()),
                Step::Offer { alpha: true, back } => offer(&mut alpha, &mut beta, back),
                Step::Offer { alpha: false, back } => offer(&mut beta, &mut alpha, back),
            }
            prop_assert!(hear_each_other(&alpha, &beta), "{:?} {:?}", alpha, beta);
        }
        for _ in 0..3 {
            offer(&mut alpha, &mut beta, true);
            offer(&mut beta, &mut alpha, true);
        }
        prop_assert_eq!(&alpha.current, &beta.current);
        prop_assert!(!alpha.is_rotating() && !beta.is_rotating());
    }

    /// No changed byte, no cut and no noise is taken for secrets.
    #[test]
    fn a_damaged_file_is_refused(at in 0..SECRETS_BYTES, bit in 0_u8..8, cut in 0..SECRETS_BYTES, noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let bytes = Secrets::found().unwrap().encode();
        let mut changed = bytes.clone();
        changed[at] ^= 1 << bit;
        prop_assert!(Secrets::decode(&changed).is_err());
        prop_assert!(Secrets::decode(&bytes[..cut]).is_err());
        prop_assert!(Secrets::decode(&noise).is_err());
    }
}
