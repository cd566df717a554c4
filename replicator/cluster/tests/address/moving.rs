//! The address goes from one node to the other, and a client that knew the old way finds the new one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

use replicator_cluster::address::{AddressError, Addresses, Unprobed};

use super::ground::{Ground, INTERFACE, LIMIT, Namespace, Node, V4, V6, both, configured, ip, wait};

/// A server that tells each client its name once.
fn server(namespace: &Namespace, name: &'static str) -> JoinHandle<()> {
    let (ready, listening) = std::sync::mpsc::channel();
    let thread = namespace.within(move || {
        let listener = TcpListener::bind("[::]:7000").unwrap();
        ready.send(()).unwrap();
        // As many as the test has questions for this node.
        for stream in listener.incoming().take(2) {
            stream.unwrap().write_all(name.as_bytes()).unwrap();
        }
    });
    listening.recv_timeout(LIMIT).unwrap();
    thread
}

fn who_answers(client: &Namespace, address: &str) -> String {
    let to = SocketAddr::new(ip(address), 7000);
    let asked = client.within(move || {
        let mut stream = TcpStream::connect_timeout(&to, LIMIT).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut name = String::new();
        stream.read_to_string(&mut name).unwrap();
        name
    });
    asked.join().unwrap()
}

#[test]
fn a_client_follows_the_address() {
    let Some(ground) = Ground::new() else { return };
    let servers = [server(&ground.a, "a"), server(&ground.b, "b")];
    let (a, b) = (Node::start(&ground.a, both()), Node::start(&ground.b, both()));

    let taken = a.call(|node| async move { node.take(true).await.unwrap() });
    assert_eq!(taken.unprobed, []);
    let expected = [format!("{V4}/24"), format!("{V6}/64")];
    assert_eq!(taken.addresses.iter().map(|(net, _)| net.to_string()).collect::<Vec<_>>(), expected);
    assert!(taken.addresses.iter().all(|(_, interface)| interface == INTERFACE));
    for address in [V4, V6] {
        assert_eq!(who_answers(&ground.client, address), "a");
        assert_eq!(ground.client.neighbour(address), Some(ground.a.mac()));
    }

    let given_up = a.call(|node| async move { node.give_up().unwrap() });
    assert_eq!(given_up.removed.len(), 2);
    assert!(!ground.a.has(V4) && !ground.a.has(V6));
    b.call(|node| async move { node.take(true).await.unwrap() });
    // Nobody asks in between: the client learns it by the announcements.
    for address in [V4, V6] {
        wait("the announcement", || (ground.client.neighbour(address) == Some(ground.b.mac())).then_some(()));
        assert_eq!(who_answers(&ground.client, address), "b");
    }
    for server in servers {
        server.join().unwrap();
    }
}

#[test]
fn addresses_are_added_as_a_service_needs_them() {
    let Some(ground) = Ground::new() else { return };
    let mut addresses = both();
    // In no subnet of the node.
    let mut elsewhere = configured("172.30.0.9/24");
    elsewhere.interface = Some(INTERFACE.into());
    addresses.push(elsewhere);
    let node = Node::start(&ground.a, addresses);
    node.call(|node| async move { node.take(true).await.unwrap() });
    let shown = ground.a.ip(&format!("-o address show dev {INTERFACE}"));
    let line = |address: &str| shown.lines().find(|line| line.contains(address)).unwrap().to_owned();
    // The node's own address stays the one that its connections go out from.
    assert!(line(V4).contains("secondary") && line(V4).contains("noprefixroute"), "{shown}");
    assert!(line(V6).contains("nodad"), "{shown}");
    for word in ["tentative", "dadfailed"] {
        assert!(!line(V6).contains(word), "{shown}");
    }
    assert!(source(&ground.a, "10.9.0.3", "10.9.0.1") && source(&ground.a, "fd00:9::3", "fd00:9::1"));
    let routes = ground.a.ip("route show");
    assert!(routes.contains("172.30.0.0/24") && routes.matches("10.9.0.0/24").count() == 1, "{routes}");
    // Gone by the end of the daemon, with nothing of the node's own.
    drop(node);
    assert!(!ground.a.has(V4) && !ground.a.has(V6) && !ground.a.has("172.30.0.9"));
    assert!(ground.a.has("10.9.0.1") && ground.a.has("fd00:9::1"));
    assert!(ground.a.ip("route show").contains("10.9.0.0/24"));
}

/// Whether a connection to somebody would go out from that address.
fn source(namespace: &Namespace, to: &str, from: &str) -> bool {
    namespace.ip(&format!("route get {to}")).contains(&format!("src {from} "))
}

#[test]
fn a_v6_address_may_be_the_one_that_connections_go_out_from() {
    let Some(ground) = Ground::new() else { return };
    let mut addresses = both();
    addresses[1].outgoing = true;
    let node = Node::start(&ground.a, addresses);
    node.call(|node| async move { node.take(true).await.unwrap() });
    assert!(!ground.a.ip("-o -6 address show").contains("deprecated"));
    assert!(source(&ground.a, "fd00:9::3", V6));
    node.call(|node| async move { node.give_up().unwrap() });
    assert!(source(&ground.a, "fd00:9::3", "fd00:9::1"));
}

#[test]
fn taking_and_giving_up_twice_is_once() {
    let Some(ground) = Ground::new() else { return };
    let node = Node::start(&ground.a, both());
    node.call(|node| async move { node.give_up().unwrap() });
    node.call(|node| async move { node.take(true).await.unwrap() });
    let again = node.call(|node| async move { node.take(true).await.unwrap() });
    assert!(again.unprobed.iter().all(|(_, why)| *why == Unprobed::AlreadyHere), "{again:?}");
    assert_eq!(again.unprobed.len(), 2);
    assert!(ground.a.has(V4) && ground.a.has(V6));
    let status = node.call(|node| async move { node.status().unwrap() });
    assert!(status.iter().all(|one| one.held && one.present && one.carrier), "{status:?}");
    assert_eq!(node.call(|node| async move { node.give_up().unwrap() }).removed.len(), 2);
    assert_eq!(node.call(|node| async move { node.give_up().unwrap() }).removed, []);
    let status = node.call(|node| async move { node.status().unwrap() });
    assert!(status.iter().all(|one| !one.held && !one.present), "{status:?}");
}

#[test]
fn who_gives_up_overtakes_who_still_asks() {
    let Some(ground) = Ground::new() else { return };
    let node = Node::start(&ground.a, both());
    let taken = node.call(|node| async move {
        let taker = node.clone();
        let set = tokio::task::LocalSet::new();
        let taking = set.spawn_local(async move { taker.take(true).await });
        set.run_until(async {
            // The LAN is being asked: the taker has had its first turn.
            tokio::task::yield_now().await;
            node.give_up().unwrap();
        })
        .await;
        set.run_until(taking).await.unwrap()
    });
    assert!(matches!(taken, Err(AddressError::Overtaken)), "{taken:?}");
    assert!(!ground.a.has(V4) && !ground.a.has(V6));
}

/// So that the daemon may take on any of its threads and give up on another.
#[test]
fn orders_may_come_from_any_thread() {
    fn sends<T: Send>(_: &T) {}
    fn shares<T: Send + Sync>(_: &T) {}
    let directory = tempfile::tempdir().unwrap();
    let (events, _told) = tokio::sync::mpsc::unbounded_channel();
    let addresses = Addresses::new(Vec::new(), directory.path(), events).unwrap();
    shares(&addresses);
    sends(&addresses.take(true));
    // And a module without addresses has nothing to give up.
    assert_eq!(addresses.give_up().unwrap().removed, []);
}

#[test]
fn an_interface_that_is_down_is_named() {
    let Some(ground) = Ground::new() else { return };
    let node = Node::start(&ground.a, vec![configured(&format!("{V4}/24"))]);
    ground.a.ip(&format!("link set {INTERFACE} down"));
    let refused = node.call(|node| async move { node.take(true).await });
    assert!(
        matches!(&refused, Err(AddressError::InterfaceDown { interface, .. }) if interface == INTERFACE),
        "{refused:?}"
    );
}

/// Of two addresses the second cannot be added: the first does not stay.
#[test]
fn all_addresses_or_none() {
    let Some(ground) = Ground::new() else { return };
    let mut addresses = both();
    addresses[1].interface = Some(INTERFACE.into());
    let node = Node::start(&ground.a, addresses);
    let disabled = ground.a.within(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1"));
    disabled.join().unwrap().unwrap();
    let refused = node.call(|node| async move { node.take(false).await });
    assert!(matches!(&refused, Err(AddressError::Add { address, .. }) if *address == ip(V6)), "{refused:?}");
    assert!(!ground.a.has(V4));
    assert!(!node.state.path().join("addresses").exists());
}
