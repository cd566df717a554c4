//! The kernel's answers on this machine, which are not ours to change, and bytes that no kernel sends.

use proptest::prelude::*;

use super::*;

#[test]
fn the_loopback_interface_is_there_with_its_address() {
    let mut netlink = Netlink::route().unwrap();
    let links = netlink.links().unwrap();
    let Some(loopback) = links.iter().find(|link| link.loopback) else {
        return println!("not run: no loopback interface here");
    };
    assert_eq!((loopback.name.as_str(), loopback.mac), ("lo", None));
    let addresses = netlink.addresses().unwrap();
    if loopback.up {
        let expected =
            Entry { index: loopback.index, address: [127, 0, 0, 1].into(), prefix: 8, marked: false };
        assert!(addresses.contains(&expected), "{addresses:?}");
    }
    assert!(links.iter().all(|link| !link.name.is_empty()), "{links:?}");
}

#[test]
fn a_refusal_is_the_kernels_number() {
    let mut netlink = Netlink::route().unwrap();
    // A prefix longer than the address: refused before anything is looked at.
    let entry = Entry { index: 1, address: [127, 0, 0, 99].into(), prefix: 33, marked: false };
    let error = netlink.add(&entry, Manner { route: true, outgoing: true }).unwrap_err();
    let number = error.raw_os_error();
    assert!(number == Some(libc::EINVAL) || number == Some(libc::EPERM), "{error}");
    // And the socket still answers the next question.
    assert!(!netlink.links().unwrap().is_empty());
}

#[test]
fn what_is_gone_need_not_be_removed() {
    if !nix::unistd::geteuid().is_root() {
        return println!("not run: needs root");
    }
    let mut netlink = Netlink::route().unwrap();
    let entry = Entry { index: 1, address: [192, 0, 2, 77].into(), prefix: 32, marked: false };
    netlink.remove(&entry).unwrap();
    netlink.remove(&Entry { index: 0x7fff_ffff, ..entry }).unwrap();
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(
        kind in prop::sample::select(vec![RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR, 99]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        let _ = Fact::deserialize(&header, &bytes);
        let mut framed = ((bytes.len() + 16) as u32).to_ne_bytes().to_vec();
        framed.extend_from_slice(&[0; 12]);
        framed.extend_from_slice(&bytes);
        prop_assert_eq!(messages(&framed).next().unwrap().1, &bytes[..]);
        prop_assert!(messages(&bytes).count() <= bytes.len() / 16 + 1);
        let _ = verdict_of_error(&bytes);
        let _ = verdict_of_done(&bytes);
    }
}
