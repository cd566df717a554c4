//! A node whose shelf changes while it runs.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use replicator_core::action::StateRecord;
use replicator_core::cluster::{Command, CopyState, MirrorView, Policy, Readiness, Role};
use replicator_core::ids::Term;
use tempfile::TempDir;

use super::*;
use crate::daemon::mirror::Look;
use crate::daemon::node::NodeSetup;
use crate::daemon::service::Places;
use crate::heartbeat::{HeartbeatConfig, Key, Path as Network, Preset};
use crate::module::MODULE_FILE;

/// Longer than anything here takes on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);
/// A module whose mirror cannot be made.
const NO_MIRROR: &str = "no mirror for it";

/// A mirror that does whatever it is told, and counts how many there are of it.
struct Obliging(Arc<AtomicUsize>);

impl Drop for Obliging {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Mirror for Obliging {
    async fn start(&self, _: Role, _: Term, _: bool, _: bool) -> Result<(), String> {
        Ok(())
    }

    async fn stop(&self) -> Result<(), String> {
        Ok(())
    }

    async fn drain(&self) -> Result<(), String> {
        Ok(())
    }

    async fn outdate(&self, _: Term) -> Result<(), String> {
        Ok(())
    }

    async fn go_alone(&self, _: Term) -> Result<(), String> {
        Ok(())
    }

    async fn tell(&self) -> Option<String> {
        None
    }

    async fn look(&self) -> Result<Look, String> {
        let record = StateRecord::unknown();
        let copy = CopyState { account: record.account(), term: record.term, alone: record.alone };
        Ok(Look { running: false, view: MirrorView::default(), copy })
    }
}

struct Running {
    node: Arc<Node<Obliging>>,
    mirrors: Arc<AtomicUsize>,
    place: TempDir,
}

impl Running {
    fn start() -> Running {
        let place = TempDir::new().unwrap();
        let below = |name: &str| place.path().join(name);
        let free = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let network = Network { local: free(), peer: free() };
        let heartbeat = HeartbeatConfig::new(
            [7; 16],
            ([1; 16], [2; 16]),
            Key::new([3; 32]),
            vec![network],
            Preset::Normal,
        );
        let setup = NodeSetup {
            names: ("alpha".to_owned(), "beta".to_owned()),
            heartbeat,
            policy: Policy::ConsistencyFirst,
            arbiter: None,
            places: Places {
                cluster: below("cluster"),
                modules: below("modules"),
                state: below("state"),
                run: below("run"),
                logs: below("logs"),
            },
            modules: Vec::new(),
        };
        let mirrors = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&mirrors);
        let node = Node::start(setup, move |description| {
            if description.description == NO_MIRROR {
                return Err(NO_MIRROR.to_owned());
            }
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(Obliging(Arc::clone(&counted)))
        });
        Running { node: node.unwrap(), mirrors, place }
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.place.path().join("modules").join(name)
    }

    /// Have a module on the shelf, with this text to tell it by.
    fn write(&self, name: &str, description: &str) {
        self.write_text(name, &format!("[module]\nname = {name:?}\ndescription = {description:?}\n"));
    }

    fn write_text(&self, name: &str, text: &str) {
        fs::create_dir_all(self.directory(name)).unwrap();
        fs::write(self.directory(name).join(MODULE_FILE), text).unwrap();
    }

    fn unwrite(&self, name: &str) {
        fs::remove_dir_all(self.directory(name)).unwrap();
    }

    async fn reload(&self) -> Reloaded {
        self.node.reload().await.unwrap()
    }

    fn has(&self, name: &str) -> Option<String> {
        self.node.description(name).map(|description: Arc<Description>| description.description.clone())
    }

    async fn order(&self, name: &str, command: Command) {
        if command == Command::Start {
            self.node.take_pending(name).await.unwrap();
        }
        self.node.command(name, command).await.unwrap().unwrap();
    }

    /// The module is at rest: what it was to take is taken.
    async fn wait_at_rest(&self, name: &str) {
        // So that what is known of it is not what its predecessor said.
        self.node.probe().await;
        let at_rest = async {
            // One that has just been started has said nothing yet.
            while self.node.modules().get(name).is_none_or(|both| both.here.readiness == Readiness::Transient)
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LIMIT, at_rest).await.expect("it comes to rest");
    }

    /// No more mirrors, and so no more edges, than modules.
    async fn wait_mirrors(&self, count: usize) {
        let ended = async {
            while self.mirrors.load(Ordering::SeqCst) != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LIMIT, ended).await.expect("what was replaced ends");
    }
}

fn taken(name: &str) -> Reloaded {
    Reloaded { taken: vec![name.to_owned()], ..Reloaded::default() }
}

fn waiting(name: &str) -> Reloaded {
    Reloaded { waiting: vec![name.to_owned()], ..Reloaded::default() }
}

fn removed(name: &str) -> Reloaded {
    Reloaded { removed: vec![name.to_owned()], ..Reloaded::default() }
}

#[tokio::test]
async fn modules_come_change_and_go_and_leave_nothing_behind() {
    let running = Running::start();
    assert_eq!(running.reload().await, Reloaded::default());
    running.write("web", "first");
    assert_eq!(running.reload().await, taken("web"));
    assert_eq!(running.reload().await, Reloaded::default());
    assert_eq!(running.has("web").as_deref(), Some("first"));
    running.node.local("web").unwrap().set_maintenance(true);
    for change in ["second", "third"] {
        running.wait_at_rest("web").await;
        running.write("web", change);
        assert_eq!(running.reload().await, taken("web"));
        assert_eq!(running.has("web").as_deref(), Some(change));
        assert!(running.node.local("web").unwrap().maintenance(), "an operator's word is kept");
        running.wait_mirrors(1).await;
        running.node.probe().await;
    }
    running.wait_at_rest("web").await;
    running.unwrite("web");
    assert_eq!(running.reload().await, removed("web"));
    assert_eq!((running.has("web"), running.node.modules().len()), (None, 0));
    running.wait_mirrors(0).await;
    running.node.probe().await;
}

#[tokio::test]
async fn what_runs_takes_its_change_at_the_start_after_a_stop() {
    let running = Running::start();
    running.write("web", "first");
    running.reload().await;
    running.order("web", Command::Start).await;
    running.write("web", "second");
    assert_eq!(running.reload().await, waiting("web"));
    assert_eq!(running.node.pending("web").as_deref(), Some(WAITS));
    assert_eq!(running.has("web").as_deref(), Some("first"));
    // It is started already; nothing is taken.
    running.order("web", Command::Start).await;
    assert_eq!(running.has("web").as_deref(), Some("first"));
    running.order("web", Command::Stop).await;
    running.wait_at_rest("web").await;
    running.order("web", Command::Start).await;
    assert_eq!(running.has("web").as_deref(), Some("second"));
    assert_eq!(running.node.pending("web"), None);
    running.wait_mirrors(1).await;
    // As it was is no change.
    running.write("web", "third");
    assert_eq!(running.reload().await, waiting("web"));
    running.write("web", "second");
    assert_eq!(running.reload().await, Reloaded::default());
    assert_eq!(running.node.pending("web"), None);
    // One that was taken from the shelf by hand goes when it is at rest.
    running.unwrite("web");
    assert_eq!(running.reload().await, waiting("web"));
    running.order("web", Command::Stop).await;
    running.wait_at_rest("web").await;
    assert_eq!(running.reload().await, removed("web"));
}

#[tokio::test]
async fn what_is_refused_leaves_the_former_and_says_why() {
    let running = Running::start();
    running.write("web", "first");
    running.reload().await;
    running.wait_at_rest("web").await;
    running.write_text("web", "[module]\nname = \"web\"\nnonsense = 1\n");
    let refused = running.reload().await.refused;
    assert!(refused["web"].contains("nonsense"), "{refused:?}");
    running.write("web", NO_MIRROR);
    let refused = running.reload().await.refused;
    assert_eq!(refused["web"], NO_MIRROR);
    assert!(running.node.pending("web").unwrap().contains(NO_MIRROR));
    assert_eq!(running.has("web").as_deref(), Some("first"));
    running.order("web", Command::Start).await;
    assert_eq!(running.has("web").as_deref(), Some("first"));
    running.order("web", Command::Stop).await;
    running.wait_at_rest("web").await;
    running.write("web", "second");
    assert_eq!(running.reload().await, taken("web"));
    assert_eq!(running.node.pending("web"), None);
    // One whose directory belongs to somebody else: it shows when the former has ended, which is there again.
    running.wait_at_rest("web").await;
    running.write("web", "third");
    let state = running.place.path().join("state/web");
    let aside = running.place.path().join("aside");
    fs::rename(&state, &aside).unwrap();
    fs::write(&state, "not a directory").unwrap();
    let refused = running.reload().await.refused;
    assert!(refused.contains_key("web"), "{refused:?}");
}

#[tokio::test]
async fn there_are_never_more_than_the_other_node_can_be_told_of() {
    let running = Running::start();
    for number in 0..=gossip::MODULES_MAX {
        running.write(&format!("module-{number:02}"), "one of many");
    }
    let reloaded = running.reload().await;
    assert_eq!(reloaded.taken.len(), gossip::MODULES_MAX);
    assert_eq!(reloaded.refused.keys().collect::<Vec<_>>(), [&format!("module-{:02}", gossip::MODULES_MAX)]);
    running.wait_at_rest("module-00").await;
    running.unwrite("module-00");
    let reloaded = running.reload().await;
    assert_eq!((reloaded.removed.len(), reloaded.taken.len(), reloaded.refused.len()), (1, 1, 0));
}

#[tokio::test]
async fn a_node_that_ends_takes_nothing_new() {
    let running = Running::start();
    running.write("web", "first");
    running.reload().await;
    running.node.stop(LIMIT).await;
    running.write("mail", "late");
    running.node.reload().await.unwrap_err();
    assert_eq!(running.has("mail"), None);
}
