//! Others on the LAN who have the address, or say so.

use replicator_cluster::address::{AddressError, AddressEvent, AddressStatus};

use super::ground::{Ground, INTERFACE, Node, V4, V6, both, ip, wait};

#[test]
fn a_duplicate_is_found_before_anything_is_added() {
    let Some(ground) = Ground::new() else { return };
    for (address, prefix) in [(V4, 24), (V6, 64)] {
        ground.client.ip(&format!("address add {address}/{prefix} dev {INTERFACE} nodad"));
        let node = Node::start(&ground.a, both());
        match node.call(|node| async move { node.take(true).await }) {
            Err(AddressError::Duplicate { address: found, mac }) => {
                assert_eq!((found, mac.to_string()), (ip(address), ground.client.mac()));
            }
            other => panic!("{address}: {other:?}"),
        }
        assert!(!ground.a.has(V4) && !ground.a.has(V6));
        assert!(!node.state.path().join("addresses").exists());
        ground.client.ip(&format!("address del {address}/{prefix} dev {INTERFACE}"));
        node.call(|node| async move { node.take(true).await.unwrap() });
    }
}

#[test]
fn a_rival_is_told_and_the_lan_learns_the_truth_again() {
    let Some(ground) = Ground::new() else { return };
    let mut a = Node::start(&ground.a, both());
    let b = Node::start(&ground.b, both());
    a.call(|node| async move { node.take(true).await.unwrap() });
    for address in [V4, V6] {
        // So that the client has an entry to be misled.
        let entry = format!("neigh replace {address} lladdr {} dev {INTERFACE} nud stale", ground.a.mac());
        ground.client.ip(&entry);
    }
    // The burst is over, and nothing is due for a minute: what repairs the client's entry is the answer to the rival.
    let burst = |one: &AddressStatus| one.announced >= 7;
    wait("the end of the burst", || {
        a.call(|node| async move { node.status().unwrap() }).iter().all(burst).then_some(())
    });
    // Taken without a question, announced, and given up again: a secondary that was wrong for a moment.
    b.call(|node| async move {
        node.take(false).await.unwrap();
        node.give_up().unwrap();
    });
    for address in [V4, V6] {
        let mac = ground.b.mac();
        let rival =
            a.event(|event| matches!(event, AddressEvent::Rival { address: of, .. } if *of == ip(address)));
        assert!(matches!(rival, AddressEvent::Rival { mac: of, .. } if of.to_string() == mac), "{rival:?}");
        wait("the client to know again", || {
            (ground.client.neighbour(address) == Some(ground.a.mac())).then_some(())
        });
    }
    let status = a.call(|node| async move { node.status().unwrap() });
    assert!(
        status.iter().all(|one| one.rival.map(|mac| mac.to_string()) == Some(ground.b.mac())),
        "{status:?}"
    );
}
