//! Tests of the cluster's description.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::{Description, Node, Policy};
use crate::membership::authority::Fingerprint;
use crate::membership::error::DescriptionError;
use crate::membership::identity::{ClusterId, NodeId};

fn node(name: &str, number: u8) -> Node {
    let at = |net: u8, port: u16| SocketAddr::from(([10, net, 0, number], port));
    Node {
        name: name.into(),
        id: NodeId([number; 16]),
        heartbeat: BTreeMap::from([("lan".into(), at(0, 7410)), ("cross".into(), at(1, 7410))]),
        control: at(0, 7411),
        mirror: vec![at(1, 1).ip()],
    }
}

fn description() -> Description {
    Description {
        version: 3,
        name: "shop".into(),
        id: ClusterId([7; 16]),
        authority: Fingerprint([8; 32]),
        policy: Policy::AvailabilityFirst,
        arbiter: Some(
            "kind = \"witness\"\naddresses = [\"10.0.0.9:7420\"]\n[tuning]\nttl = \"3s\"".parse().unwrap(),
        ),
        nodes: vec![node("alpha", 1), node("beta", 2)],
    }
}

#[test]
fn what_is_written_is_read() {
    let description = description();
    let text = description.to_text().unwrap();
    assert_eq!(Description::parse(&text).unwrap(), description, "{text}");
    let alone = Description { nodes: vec![node("alpha", 1)], arbiter: None, ..description };
    assert_eq!(Description::parse(&alone.to_text().unwrap()).unwrap(), alone);
}

#[test]
fn the_documented_file_is_read() {
    let documented = include_str!("../description.rs").lines().filter_map(|line| line.strip_prefix("//!"));
    let text: Vec<&str> = documented
        .skip_while(|line| *line != " ```toml")
        .skip(1)
        .take_while(|line| *line != " ```")
        .collect();
    let text =
        text.join("\n").replace("sha256:…", &Fingerprint([1; 32]).to_string()).replace('…', &"ab".repeat(16));
    let read = Description::parse(&text).unwrap();
    assert_eq!((read.version, read.nodes[0].heartbeat.len()), (3, 2));
}

#[test]
fn the_greater_stamp_is_one_of_any_two() {
    let one = description();
    let other = Description { policy: Policy::Manual, ..one.clone() };
    let newer = Description { version: 4, ..one.clone() };
    assert_eq!(one.stamp().unwrap(), one.clone().stamp().unwrap());
    assert_ne!(one.stamp().unwrap(), other.stamp().unwrap());
    assert!(newer.stamp().unwrap() > one.stamp().unwrap() && newer.stamp().unwrap() > other.stamp().unwrap());
}

#[test]
fn errors_of_the_text_say_where() {
    let text = description().to_text().unwrap();
    let wrong = text.replace("[cluster]\n", "[cluster]\npolicyy = 1\n");
    let line = wrong.lines().position(|line| line.starts_with("policyy")).unwrap() + 1;
    match Description::parse(&wrong) {
        Err(DescriptionError::Syntax { line: found, column: 1, message }) => {
            assert_eq!(found, line);
            assert!(message.contains("policyy") && message.contains("policy"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    let newer = text.replace("format = 1", "format = 2\nsomething = \"new\"");
    assert!(matches!(Description::parse(&newer), Err(DescriptionError::Format { found: 2, known: 1 })));
    let huge = format!("{text}#{}", "x".repeat(70_000));
    assert!(matches!(Description::parse(&huge), Err(DescriptionError::TooLarge { .. })));
    let hosts = text.replace("10.0.0.1:7411", "alpha.example:7411");
    assert!(matches!(Description::parse(&hosts), Err(DescriptionError::Syntax { .. })));
}

/// A change and what is said of it.
type Case = (fn(&mut Description), fn(&DescriptionError) -> bool);

#[test]
fn what_does_not_fit_together_is_refused() {
    use DescriptionError as E;
    let cases: [Case; 18] = [
        (|d| d.version = 0, |e| matches!(e, E::VersionZero)),
        (|d| d.name = "a b".into(), |e| matches!(e, E::Name { key: "cluster.name", .. })),
        (|d| d.nodes[0].name = "../x".into(), |e| matches!(e, E::Name { key: "node.name", .. })),
        (|d| d.nodes[0].name = "x".repeat(65), |e| matches!(e, E::Name { .. })),
        (|d| d.nodes.clear(), |e| matches!(e, E::NodeCount { count: 0 })),
        (|d| d.nodes.push(node("gamma", 3)), |e| matches!(e, E::NodeCount { count: 3 })),
        (|d| d.nodes[1].name = "alpha".into(), |e| matches!(e, E::NodesAlike { what: "name", .. })),
        (|d| d.nodes[1].id = d.nodes[0].id, |e| matches!(e, E::NodesAlike { what: "id", .. })),
        (
            |d| d.nodes[1].mirror = d.nodes[0].mirror.clone(),
            |e| matches!(e, E::NodesAlike { what: "mirror address", .. }),
        ),
        (|d| d.nodes[0].heartbeat.clear(), |e| matches!(e, E::NoAddress { key: "heartbeat", .. })),
        (|d| d.nodes[0].mirror.clear(), |e| matches!(e, E::NoAddress { key: "mirror", .. })),
        (
            |d| d.nodes[0].mirror = vec!["10.9.9.9".parse().unwrap(); 9],
            |e| matches!(e, E::TooManyAddresses { .. }),
        ),
        (|d| d.nodes[0].control.set_port(0), |e| matches!(e, E::Address { .. })),
        (|d| d.nodes[0].mirror = vec!["0.0.0.0".parse().unwrap()], |e| matches!(e, E::Address { .. })),
        (|d| d.nodes[0].control = "[fe80::1%2]:7411".parse().unwrap(), |e| matches!(e, E::Address { .. })),
        (|d| d.nodes[1].control = d.nodes[0].control, |e| matches!(e, E::AddressTwice { .. })),
        (
            |d| d.nodes[1].heartbeat.retain(|network, _| network != "lan"),
            |e| matches!(e, E::NetworkMissing { .. }),
        ),
        (
            |d| d.nodes[1].heartbeat.extend([("lan".into(), "[fd00::2]:7410".parse().unwrap())]),
            |e| matches!(e, E::NetworkMixed { .. }),
        ),
    ];
    assert!(description().check().is_ok());
    for (place, (change, expected)) in cases.into_iter().enumerate() {
        let mut changed = description();
        change(&mut changed);
        let error = changed.check().unwrap_err();
        assert!(expected(&error), "case {place}: {error:?}");
        let text = changed.to_text().unwrap();
        assert!(Description::parse(&text).is_err(), "case {place} is also refused when read");
    }
}

proptest! {
    #[test]
    fn no_text_is_a_panic(text in ".{0,400}", at in any::<prop::sample::Index>(), insert in ".{0,3}") {
        let _ = Description::parse(&text);
        let mut whole = description().to_text().unwrap();
        let at = at.index(whole.len());
        whole.insert_str(at, &insert);
        // What is still read is written and read as the same.
        if let Ok(read) = Description::parse(&whole) {
            prop_assert_eq!(Description::parse(&read.to_text().unwrap()).unwrap(), read);
        }
    }
}
