//! The packets against bytes written down by hand from the RFCs, and whatever a stranger may send.

use std::net::{Ipv4Addr, Ipv6Addr};

use libc::{BPF_ABS, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};
use proptest::prelude::*;

use super::*;

const OURS: Mac = Mac([2, 0, 0, 0, 0, 0xaa]);
const V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x12, 0x3456);

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

#[test]
fn an_arp_probe_has_no_sender() {
    let expected =
        "ffffffffffff 0200000000aa 0806 0001 0800 06 04 0001 0200000000aa 00000000 000000000000 0a000009";
    assert_eq!(probe(V4.into(), OURS), bytes(expected));
    assert_eq!(claim(&probe(V4.into(), OURS)), None);
}

#[test]
fn an_arp_announcement_has_both_forms() {
    let request =
        "ffffffffffff 0200000000aa 0806 0001 0800 06 04 0001 0200000000aa 0a000009 000000000000 0a000009";
    let reply =
        "ffffffffffff 0200000000aa 0806 0001 0800 06 04 0002 0200000000aa 0a000009 0200000000aa 0a000009";
    assert_eq!(announcement(V4.into(), OURS, false), [bytes(request), bytes(reply)]);
}

#[test]
fn a_solicitation_goes_to_the_group_of_the_address() {
    let frame = probe(V6.into(), OURS);
    let expected = "3333ff123456 0200000000aa 86dd 60000000 0018 3a ff 00000000000000000000000000000000 \
                    ff0200000000000000000001ff123456 87 00";
    let expected = bytes(expected);
    assert_eq!(frame[..expected.len()], expected);
    assert_eq!(frame[58..], bytes("00000000 fd000000000000000000000000123456"));
    assert_eq!(claim(&frame), None);
}

#[test]
fn an_advertisement_overrides_and_names_the_hardware_address() {
    let frames = announcement(V6.into(), OURS, false);
    let expected = "333300000001 0200000000aa 86dd 60000000 0020 3a ff fd000000000000000000000000123456 \
                    ff020000000000000000000000000001 88 00 ";
    let expected = bytes(expected);
    assert_eq!(frames[0][..expected.len()], expected);
    assert_eq!(frames[0][58..], bytes("20000000 fd000000000000000000000000123456 0201 0200000000aa"));
    assert_eq!(announcement(V6.into(), OURS, true)[0][58], 0xa0, "and tells a router");
}

#[test]
fn the_sum_is_the_one_added_up_by_hand() {
    let frame = bytes(
        "333300000001 0200000000aa 86dd 60000000 0020 3a ff fe800000000000000000000000000001 \
         ff020000000000000000000000000001 88 00 0000 20000000 fe800000000000000000000000000001 0201 0200000000aa",
    );
    // Source, destination, length, protocol, type, flags, target, option.
    let total: u32 = 0xfe81 + 0xff03 + 0x20 + 0x3a + 0x8800 + 0x2000 + 0xfe81 + 0x0201 + 0x0200 + 0xaa;
    let folded = (total & 0xffff) + (total >> 16);
    let mut summed = frame;
    summed[56..58].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    let address = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    assert_eq!(claim(&summed), Some(Claim { address: address.into(), mac: OURS }));
    assert_eq!(announcement(address.into(), OURS, false)[0], summed);
}

#[test]
fn what_is_announced_is_a_claim() {
    for address in [IpAddr::from(V4), V6.into()] {
        for frame in announcement(address, OURS, false) {
            assert_eq!(claim(&frame), Some(Claim { address, mac: OURS }));
        }
    }
}

#[test]
fn an_advertisement_without_the_option_is_its_senders() {
    let with = announcement(V6.into(), OURS, false).remove(0);
    let mut without = with[..78].to_vec();
    without[19] = 24;
    // The option's words and the length leave the sum; ones' complement arithmetic by search, it is a test.
    let claimed = (0..=u16::MAX).find_map(|sum| {
        without[56..58].copy_from_slice(&sum.to_be_bytes());
        claim(&without)
    });
    assert_eq!(claimed, Some(Claim { address: V6.into(), mac: OURS }));
}

#[test]
fn a_routed_or_broken_advertisement_claims_nothing() {
    let frame = announcement(V6.into(), OURS, false).remove(0);
    for (at, value) in [(21, 254), (20, 17), (14, 0x40), (12, 0x08), (57, frame[57] ^ 1), (79, 0), (54, 135)]
    {
        let mut changed = frame.clone();
        changed[at] = value;
        assert_eq!(claim(&changed), None, "byte {at} set to {value}");
    }
}

/// What the kernel does with a filter of ours, in the instructions that they use.
fn accepts(program: &[sock_filter], frame: &[u8]) -> bool {
    let (mut at, mut loaded) = (0, 0_u32);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        match u32::from(code) {
            code if code == BPF_LD | BPF_ABS | BPF_W => match frame.get(k as usize..k as usize + 4) {
                Some(word) => loaded = u32::from_be_bytes(word.try_into().unwrap()),
                None => return false,
            },
            code if code == BPF_LD | BPF_ABS | BPF_B => match frame.get(k as usize) {
                Some(byte) => loaded = (*byte).into(),
                None => return false,
            },
            code if code == BPF_JMP | BPF_JEQ | BPF_K => at += usize::from(if loaded == k { jt } else { jf }),
            code if code == BPF_RET | BPF_K => return k > 0,
            code => panic!("instruction {code:#x}"),
        }
    }
}

#[test]
fn the_filter_lets_through_claims_of_its_address_only() {
    let other = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x12, 0x3457);
    let other_early = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0x12, 0x3456);
    let v6 = filter::claims_of(V6.into());
    assert!(accepts(&v6, &announcement(V6.into(), OURS, false)[0]));
    assert!(!accepts(&v6, &announcement(other.into(), OURS, false)[0]));
    assert!(!accepts(&v6, &announcement(other_early.into(), OURS, false)[0]));
    assert!(!accepts(&v6, &probe(V6.into(), OURS)));
    assert!(!accepts(&v6, &[]));
    let v4 = filter::claims_of(V4.into());
    assert!(announcement(V4.into(), OURS, false).iter().all(|frame| accepts(&v4, frame)));
    assert!(!accepts(&v4, &announcement(Ipv4Addr::new(10, 0, 0, 8).into(), OURS, false)[0]));
    assert!(!accepts(&v4, &probe(V4.into(), OURS)));
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = claim(&frame);
    }

    #[test]
    fn no_damage_is_too_strange(
        v6 in any::<bool>(),
        cut in 0_usize..120,
        damage in prop::collection::vec((0_usize..120, any::<u8>()), 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let address = if v6 { IpAddr::from(V6) } else { V4.into() };
        let mut frame = announcement(address, OURS, false).remove(0);
        frame.truncate(cut);
        frame.extend_from_slice(&tail);
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        let _ = claim(&frame);
    }

    /// Options of every shape behind a sound head: with the right sum they are all read to the end.
    #[test]
    fn no_options_are_too_strange(options in prop::collection::vec(any::<u8>(), 0..64), mac in any::<[u8; 6]>()) {
        let _ = ndp::target_link_layer(&options);
        let claimed = ndp::target_link_layer(&[&[2, 1], &mac[..]].concat());
        prop_assert_eq!(claimed, Some(Some(Mac(mac))));
    }

    #[test]
    fn every_announcement_is_a_claim(octets in any::<[u8; 16]>(), mac in any::<[u8; 6]>(), router in any::<bool>()) {
        let (v4, v6) = (Ipv4Addr::from([octets[0], octets[1], octets[2], octets[3]]), Ipv6Addr::from(octets));
        prop_assume!(!v4.is_unspecified() && !v6.is_multicast());
        for address in [IpAddr::from(v4), v6.into()] {
            for frame in announcement(address, Mac(mac), router) {
                prop_assert_eq!(claim(&frame), Some(Claim { address, mac: Mac(mac) }));
                prop_assert!(accepts(&filter::claims_of(address), &frame));
            }
        }
    }
}
