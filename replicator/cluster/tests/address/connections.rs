//! TCP connections of an address that is given up end at once, at both ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;

use replicator_cluster::address::Reset;

use super::ground::{Ground, LIMIT, Namespace, Node, V4, V6, both, ip};

/// How a connection that waits for bytes ends.
fn end_of(mut stream: TcpStream) -> ErrorKind {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    match stream.read_exact(&mut [0]) {
        Ok(()) => ErrorKind::Other,
        Err(error) => error.kind(),
    }
}

/// A server whose one connection waits for its end.
fn server(namespace: &Namespace, listen: SocketAddr) -> JoinHandle<ErrorKind> {
    let (ready, listening) = mpsc::channel();
    let thread = namespace.within(move || {
        let listener = TcpListener::bind(listen).unwrap();
        ready.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"x").unwrap();
        end_of(stream)
    });
    listening.recv_timeout(LIMIT).unwrap();
    thread
}

/// A connected client that waits for its end.
fn client(namespace: &Namespace, to: SocketAddr) -> JoinHandle<ErrorKind> {
    let (ready, connected) = mpsc::channel();
    let thread = namespace.within(move || {
        let mut stream = TcpStream::connect_timeout(&to, LIMIT).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        ready.send(()).unwrap();
        end_of(stream)
    });
    connected.recv_timeout(LIMIT).unwrap();
    thread
}

#[test]
fn connections_of_the_address_are_reset_and_no_others() {
    let Some(ground) = Ground::new() else { return };
    let node = Node::start(&ground.a, both());
    node.call(|node| async move { node.take(true).await.unwrap() });
    // By a v4 socket, a v6 socket, and a v6 socket that serves v4.
    let cases = [("0.0.0.0:7001", V4, 7001), ("[::]:7002", V6, 7002), ("[::]:7003", V4, 7003)];
    let mut ends = Vec::new();
    for (listen, address, port) in cases {
        let server = server(&ground.a, listen.parse().unwrap());
        ends.push((client(&ground.client, SocketAddr::new(ip(address), port)), server));
    }
    let own = server(&ground.a, "10.9.0.1:7004".parse().unwrap());
    let own_client = client(&ground.client, "10.9.0.1:7004".parse().unwrap());

    let given_up = node.call(|node| async move { node.give_up().unwrap() });
    match given_up.reset {
        Reset::Done { connections, left } => assert_eq!((connections, left), (3, 0)),
        Reset::NotAvailable { why } => {
            eprintln!("not run: connections cannot be reset here: {why}");
            return;
        }
    }
    for (client, server) in ends {
        assert_eq!(client.join().unwrap(), ErrorKind::ConnectionReset);
        assert_eq!(server.join().unwrap(), ErrorKind::ConnectionAborted);
    }
    // The node's own connection was not among the three.
    assert!(!own_client.is_finished() && !own.is_finished());
}
