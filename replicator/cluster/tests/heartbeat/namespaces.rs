//! Two nodes in two network namespaces with a cable between them, of which nftables takes away one direction.

use std::process::Command;

use replicator_cluster::heartbeat::Path;

use super::node::NodeProcess;

const PORT: u16 = 7400;

/// Two namespaces and a cable, which go when this is dropped.
struct Cable {
    names: [String; 2],
}

fn run(command: &str) -> Result<(), String> {
    let mut words = command.split_ascii_whitespace();
    let program = words.next().unwrap_or_default();
    let output = Command::new(program).args(words).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

impl Cable {
    fn lay() -> Result<Cable, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        let names = ["a", "b"].map(|end| format!("heartbeat-{}-{end}", std::process::id()));
        let cable = Cable { names };
        let [a, b] = &cable.names;
        for (name, number) in [(a, 1), (b, 2)] {
            run(&format!("ip netns add {name}"))?;
            if number == 2 {
                run(&format!("ip link add cable netns {a} type veth peer name cable netns {b}"))?;
            }
        }
        for (name, number) in [(a, 1), (b, 2)] {
            run(&format!("ip -n {name} address add 10.77.0.{number}/24 dev cable"))?;
            run(&format!("ip -n {name} address add fd77::{number}/64 dev cable nodad"))?;
            run(&format!("ip -n {name} link set lo up"))?;
            run(&format!("ip -n {name} link set cable up"))?;
            let nft = format!("ip netns exec {name} nft");
            run(&format!("{nft} add table inet cut"))?;
            run(&format!("{nft} add chain inet cut input {{ type filter hook input priority 0 ; }}"))?;
        }
        Ok(cable)
    }

    fn node(&self, index: usize) -> NodeProcess {
        let (own, other) = (index + 1, 2 - index);
        let path = |own: String, other: String| Path {
            local: format!("{own}:{PORT}").parse().unwrap(),
            peer: format!("{other}:{PORT}").parse().unwrap(),
        };
        let v4 = path(format!("10.77.0.{own}"), format!("10.77.0.{other}"));
        let v6 = path(format!("[fd77::{own}]"), format!("[fd77::{other}]"));
        NodeProcess::start(own as u8, &[v4, v6], &["ip", "netns", "exec", &self.names[index]])
    }

    /// What comes to a node is lost from now on.
    fn lose(&self, index: usize, family: &str) {
        let name = &self.names[index];
        run(&format!(
            "ip netns exec {name} nft add rule inet cut input meta nfproto {family} udp dport {PORT} drop"
        ))
        .unwrap();
    }

    fn mend(&self, index: usize) {
        run(&format!("ip netns exec {} nft flush chain inet cut input", self.names[index])).unwrap();
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = run(&format!("ip netns delete {name}"));
        }
    }
}

#[test]
fn loss_in_one_direction_is_seen_as_such() {
    let cable = match Cable::lay() {
        Ok(cable) => cable,
        Err(why) => return eprintln!("not run: two network namespaces: {why}"),
    };
    let (a, b) = (cable.node(0), cable.node(1));
    for node in [&a, &b] {
        node.wait("Path { index: 1, state: Up }");
    }
    // From A to B nothing gets through over IPv4.
    cable.lose(1, "ipv4");
    a.wait("Path { index: 0, state: ReceiveOnly }");
    b.wait("Path { index: 0, state: SendOnly }");
    cable.mend(1);
    let mended = [a.wait("Path { index: 0, state: Up }"), b.wait("Path { index: 0, state: Up }")];
    for line in mended.iter().flatten() {
        assert!(!line.contains("PeerDead"), "{line}");
    }
    // Nothing at all: B finds A dead, A hears B and knows that it is not heard.
    cable.lose(1, "ipv4");
    cable.lose(1, "ipv6");
    b.wait("PeerDead");
    let meanwhile = a.wait("Path { index: 1, state: ReceiveOnly }");
    assert!(!meanwhile.iter().any(|line| line.contains("PeerDead")), "{meanwhile:?}");
    cable.mend(1);
    b.wait("PeerAlive");
    a.wait("Path { index: 1, state: Up }");
}
