//! What others do to the interface and the addresses of a node that holds them.

use replicator_cluster::address::{AddressEvent, AddressStatus, Unprobed};

use super::ground::{Ground, INTERFACE, Node, V4, V6, both, ip, wait};

fn announced(node: &Node) -> Vec<u64> {
    let status: Vec<AddressStatus> = node.call(|node| async move { node.status().unwrap() });
    status.iter().map(|one| one.announced).collect()
}

/// Wait until the burst is over, so that what is announced after it has another cause.
fn quiet(node: &Node) -> Vec<u64> {
    wait("the burst", || Some(announced(node)).filter(|sent| sent.iter().all(|sent| *sent >= 3)))
}

#[test]
fn an_address_that_somebody_removes_is_lost_and_can_be_taken_again() {
    let Some(ground) = Ground::new() else { return };
    let mut node = Node::start(&ground.a, both());
    node.call(|node| async move { node.take(true).await.unwrap() });
    for (address, prefix) in [(V4, 24), (V6, 64)] {
        ground.a.ip(&format!("address del {address}/{prefix} dev {INTERFACE}"));
        let lost = node.event(|event| matches!(event, AddressEvent::Lost { .. }));
        assert_eq!(lost, AddressEvent::Lost { address: ip(address) });
    }
    node.call(|node| async move { node.take(true).await.unwrap() });
    assert!(ground.a.has(V4) && ground.a.has(V6));
    // What is given up is not lost.
    node.call(|node| async move { node.give_up().unwrap() });
    node.call(|_| async { tokio::task::yield_now().await });
    assert!(
        std::iter::from_fn(|| node.events.try_recv().ok())
            .all(|event| !matches!(event, AddressEvent::Lost { .. }))
    );
}

#[test]
fn the_end_of_the_interface_is_a_loss_of_both() {
    let Some(ground) = Ground::new() else { return };
    let mut node = Node::start(&ground.a, both());
    node.call(|node| async move { node.take(true).await.unwrap() });
    ground.a.ip(&format!("link delete {INTERFACE}"));
    for _ in 0..2 {
        node.event(|event| matches!(event, AddressEvent::Lost { .. }));
    }
    // There is nothing left to give up, and that is fine.
    node.call(|node| async move { node.give_up().unwrap() });
}

#[test]
fn the_carrier_is_told_and_its_return_announced() {
    let Some(ground) = Ground::new() else { return };
    let mut node = Node::start(&ground.a, both());
    node.call(|node| async move { node.take(true).await.unwrap() });
    let before = quiet(&node);
    ground.cable(1, false);
    let carrier = |up| AddressEvent::Carrier { interface: INTERFACE.into(), up };
    assert_eq!(node.event(|event| matches!(event, AddressEvent::Carrier { .. })), carrier(false));
    ground.cable(1, true);
    assert_eq!(node.event(|event| matches!(event, AddressEvent::Carrier { .. })), carrier(true));
    // More than the schedule itself would send meanwhile.
    wait("a new burst", || {
        let now = announced(&node);
        now.iter().zip(&before).all(|(now, before)| *now >= before + 3).then_some(())
    });
    assert!(ground.a.has(V4) && ground.a.has(V6));
}

#[test]
fn without_a_carrier_nobody_is_asked_and_the_address_is_taken() {
    let Some(ground) = Ground::new() else { return };
    let node = Node::start(&ground.a, both());
    ground.cable(1, false);
    wait("the carrier to go", || ground.a.ip("link show eth0").contains("NO-CARRIER").then_some(()));
    let taken = node.call(|node| async move { node.take(true).await.unwrap() });
    assert_eq!(taken.unprobed, [(ip(V4), Unprobed::NoCarrier), (ip(V6), Unprobed::NoCarrier)]);
    ground.cable(1, true);
    quiet(&node);
    assert!(ground.a.has(V4) && ground.a.has(V6));
}

#[test]
fn a_new_hardware_address_is_announced() {
    let Some(ground) = Ground::new() else { return };
    let node = Node::start(&ground.a, both());
    node.call(|node| async move { node.take(true).await.unwrap() });
    // The client knows the old one.
    for address in [V4, V6] {
        ground.client.ip(&format!("neigh add {address} lladdr {} dev {INTERFACE} nud stale", ground.a.mac()));
    }
    quiet(&node);
    ground.a.ip(&format!("link set {INTERFACE} address 02:00:00:00:00:77"));
    for address in [V4, V6] {
        wait("the new hardware address", || {
            (ground.client.neighbour(address).as_deref() == Some("02:00:00:00:00:77")).then_some(())
        });
    }
}

#[test]
fn the_daemon_can_ask_for_announcements() {
    let Some(ground) = Ground::new() else { return };
    let node = Node::start(&ground.a, both());
    node.call(|node| async move { node.take(true).await.unwrap() });
    quiet(&node);
    for address in [V4, V6] {
        ground
            .client
            .ip(&format!("neigh replace {address} lladdr 02:00:00:00:00:99 dev {INTERFACE} nud stale"));
    }
    node.call(|node| async move { node.announce() });
    for address in [V4, V6] {
        wait("the truth", || (ground.client.neighbour(address) == Some(ground.a.mac())).then_some(()));
    }
}
