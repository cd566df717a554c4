//! The built command from outside: exit codes, one-line errors, JSON. The node behind `status` and `stop` is a control
//! server of this test, so nothing here needs root, a mount or a peer.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use replicator::control::{self, ControlServer, NodeView, Order};
use replicator::status::{Colour, Status, VerifyStatus, Word};
use replicator::verification::{Found, VerifyReport};

struct Node {
    colour: Colour,
    stopped: Sender<()>,
}

impl NodeView for Node {
    fn status(&self) -> Status {
        let verify =
            VerifyStatus { number: 7, state: "done".into(), differences: 1, ..VerifyStatus::default() };
        Status { node: "alpha".into(), word: Word::Primary, colour: self.colour, verify, ..Status::default() }
    }

    fn order(&self, order: &Order) -> Result<u64, String> {
        match order {
            Order::Verify { .. } => Ok(7),
            _ => Err("not now".to_owned()),
        }
    }

    fn verify_report(&self) -> VerifyReport {
        let found = Found { path: "/srv/a".into(), what: "mode".into(), ..Found::default() };
        VerifyReport { number: 7, found: vec![found], ..VerifyReport::default() }
    }

    fn request_stop(&self) {
        let _ = self.stopped.send(());
    }
}

fn serve(socket: &Path, colour: Colour) -> ControlServer {
    control::serve(socket, Arc::new(Node { colour, stopped: channel().0 })).unwrap()
}

fn replicator(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_replicator"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A directory with a configuration of a primary that is valid on this machine.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path("data")).unwrap();
        place.write("");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn config(&self) -> String {
        self.text("replicator.toml")
    }

    /// Write the configuration; `more` goes to the end of `[mirror]`.
    fn write(&self, more: &str) {
        let text = format!(
            "[node]\nname = \"alpha\"\ncluster = \"demo\"\nrole = \"primary\"\nstate-directory = {:?}\n\
             [link]\npeer = \"127.0.0.1:7400\"\n[mirror]\ndirectories = [{:?}]\n{more}\n",
            self.path("state"),
            self.path("data")
        );
        fs::write(self.path("replicator.toml"), text).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.path("state/control.sock")
    }
}

#[test]
fn wrong_usage_is_64_and_help_is_0() {
    for arguments in [&["frobnicate"][..], &[], &["status", "--frobnicate"], &["check-config"]] {
        let output = replicator(arguments);
        assert_eq!(code(&output), 64, "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    for arguments in [&["--help"][..], &["--version"], &["status", "--help"]] {
        let output = replicator(arguments);
        assert_eq!(code(&output), 0, "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
    let both = replicator(&["status", "--config", "a", "--socket", "b"]);
    assert_eq!(code(&both), 64);
}

#[test]
fn a_valid_configuration_is_0_and_an_invalid_one_78_in_one_line() {
    let place = Place::new();
    let output = replicator(&["check-config", &place.config()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).starts_with("warning: link.cluster-key-file"));

    place.write("moed = \"sync\"");
    let output = replicator(&["check-config", &place.config(), "--offline"]);
    assert_eq!(code(&output), 78);
    let message = stderr(&output);
    assert_eq!(message.lines().count(), 1, "{message}");
    for part in [&place.config(), "mirror.moed", "mirror.mode"] {
        assert!(message.contains(part), "{message}");
    }

    let output = replicator(&["check-config", &place.text("none.toml")]);
    assert_eq!(code(&output), 78);
    assert_eq!(stderr(&output).matches("none.toml").count(), 1, "{}", stderr(&output));
}

#[test]
fn offline_the_machine_is_not_looked_at() {
    let place = Place::new();
    fs::remove_dir(place.path("data")).unwrap();
    assert_eq!(code(&replicator(&["check-config", &place.config(), "--offline"])), 0);
    let output = replicator(&["check-config", &place.config(), "--json"]);
    assert_eq!(code(&output), 78);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["valid"], false);
    assert!(report["error"].as_str().unwrap().contains("does not exist"));
}

#[test]
fn the_example_configuration_is_valid() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/replicator.toml");
    assert_eq!(code(&replicator(&["check-config", example, "--offline"])), 0);
}

#[test]
fn run_refuses_a_bad_configuration_with_78() {
    let place = Place::new();
    place.write("gate = false");
    let output = replicator(&["run", "--config", &place.config()]);
    assert_eq!(code(&output), 78);
    assert!(stderr(&output).contains("mirror.gate"), "{}", stderr(&output));
    // A valid text that does not fit the machine is found before anything is touched.
    place.write("");
    fs::remove_dir(place.path("data")).unwrap();
    let output = replicator(&["run", "--config", &place.config()]);
    assert_eq!(code(&output), 78);
    assert!(stderr(&output).contains("does not exist"), "{}", stderr(&output));
    assert!(!place.path("state").exists());
}

#[test]
fn a_log_filter_that_makes_no_sense_is_named() {
    let place = Place::new();
    let output = Command::new(env!("CARGO_BIN_EXE_replicator"))
        .args(["run", "--config", &place.config()])
        .env("RUST_LOG", "replicator=loud")
        .output()
        .unwrap();
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("RUST_LOG"), "{}", stderr(&output));
}

#[test]
fn the_colour_of_a_node_is_the_exit_code_of_status() {
    let place = Place::new();
    let output = replicator(&["status", "--config", &place.config()]);
    assert_eq!(code(&output), 3);
    assert_eq!(stderr(&output).lines().count(), 1);
    for (colour, expected) in [(Colour::Green, 0), (Colour::Orange, 1), (Colour::Red, 2)] {
        let _server = serve(&place.socket(), colour);
        assert_eq!(code(&replicator(&["status", "--config", &place.config()])), expected);
        let output = replicator(&["status", "--socket", place.socket().to_str().unwrap(), "--json"]);
        assert_eq!(code(&output), expected);
        let status: Status = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((status.node.as_str(), status.colour), ("alpha", colour));
    }
    assert_eq!(code(&replicator(&["status", "--config", &place.config()])), 3);
}

#[test]
fn a_daemon_that_answers_nonsense_is_4() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path("odd.sock")).unwrap();
    let odd = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        BufReader::new(&stream).read_line(&mut String::new()).unwrap();
        stream.write_all(b"what?\n").unwrap();
    });
    let output = replicator(&["status", "--socket", &place.text("odd.sock")]);
    odd.join().unwrap();
    assert_eq!(code(&output), 4);
}

#[test]
fn watch_prints_one_line_per_answer_until_nobody_reads() {
    let place = Place::new();
    let _server = serve(&place.socket(), Colour::Green);
    let mut child = Command::new(env!("CARGO_BIN_EXE_replicator"))
        .args(["status", "--watch", "--json", "--socket", place.socket().to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let status: Status = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(status.colour, Colour::Green);
    }
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn stop_waits_until_the_daemon_is_gone() {
    let place = Place::new();
    let (stopped, stop) = channel();
    let node = Arc::new(Node { colour: Colour::Green, stopped });
    let server = control::serve(&place.socket(), node).unwrap();
    let daemon = thread::spawn(move || {
        let asked = stop.recv_timeout(Duration::from_secs(30));
        drop(server);
        asked
    });
    let output = replicator(&["stop", "--config", &place.config()]);
    daemon.join().unwrap().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(code(&replicator(&["stop", "--config", &place.config()])), 3);
}

#[test]
fn doctor_reports_and_judges() {
    let place = Place::new();
    let output = replicator(&["doctor", "--config", &place.config(), "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let can_run = report["verdict"]["can_run"].as_bool().unwrap();
    assert_eq!(code(&output) == 2, !can_run, "{report:#}");
    let directory = &report["directories"][0];
    assert!(directory["findings"].as_array().unwrap().iter().any(|finding| finding["name"] == "file-system"));
    let text = replicator(&["doctor"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("\nVerdict: "));
    // A directory that is not there is found, and no node can run with it.
    fs::remove_dir(place.path("data")).unwrap();
    assert_eq!(code(&replicator(&["doctor", "--config", &place.config()])), 2);
}

#[test]
fn compare_ends_as_diff_does() {
    let place = Place::new();
    for name in ["a", "b"] {
        fs::create_dir(place.path(name)).unwrap();
        fs::write(place.path(name).join("file"), "same").unwrap();
        let file = fs::File::options().write(true).open(place.path(name).join("file")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    let trees = [place.text("a"), place.text("b")];
    // The roots were made one after the other.
    for tree in &trees {
        fs::File::open(tree).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    let same = replicator(&["compare", &trees[0], &trees[1]]);
    assert_eq!(code(&same), 0, "{}", String::from_utf8_lossy(&same.stdout));
    fs::set_permissions(place.path("b/file"), std::os::unix::fs::PermissionsExt::from_mode(0o751)).unwrap();
    let output = replicator(&["compare", &trees[0], &trees[1], "--json"]);
    assert_eq!(code(&output), 1);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["identical"], false);
    assert_eq!(report["differences"][0]["path"], "file");
    assert_eq!(code(&replicator(&["compare", &trees[0], &place.text("none")])), 2);
}

#[test]
fn a_verification_tells_what_differs_and_by_its_exit_code() {
    let place = Place::new();
    let socket = place.text("control.sock");
    let _server = serve(Path::new(&socket), Colour::Green);
    let call = |arguments: &[&str]| replicator(&[arguments, &["--socket", &socket]].concat());
    let told = call(&["verify", "--rate", "none"]);
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert_eq!(code(&told), 1, "{text}");
    assert!(text.contains("/srv/a: mode\n") && text.contains("different: "), "{text}");
    let told = call(&["verify", "--json", "--repair"]);
    let json: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(json["report"]["found"][0]["what"], "mode");
    assert_eq!(code(&call(&["verify", "--report"])), 1);
    assert_eq!(code(&call(&["verify", "--detach"])), 0);
    assert_eq!(code(&call(&["verify", "--rate", "5"])), 64);
    assert_eq!(code(&call(&["verify", "--stop", "--repair"])), 64);
    let refused = call(&["verify", "--stop"]);
    assert!(code(&refused) == 1 && stderr(&refused).contains("not now"), "{}", stderr(&refused));
}

#[test]
fn a_resync_is_of_one_thing() {
    let place = Place::new();
    let socket = place.text("control.sock");
    let _server = serve(Path::new(&socket), Colour::Green);
    let call = |arguments: &[&str]| replicator(&[arguments, &["--socket", &socket]].concat());
    assert_eq!(code(&call(&["resync"])), 64);
    assert_eq!(code(&call(&["resync", "--full", "--changed"])), 64);
    let refused = call(&["resync", "--full"]);
    assert!(code(&refused) == 1 && stderr(&refused).contains("not now"), "{}", stderr(&refused));
}

#[test]
fn completions_and_manual_come_from_the_same_definition() {
    for (arguments, part) in [(&["completions", "bash"][..], "check-config"), (&["man"], "Exit codes")] {
        let output = replicator(arguments);
        assert_eq!(code(&output), 0);
        assert!(String::from_utf8_lossy(&output.stdout).contains(part), "{arguments:?}");
    }
}

#[test]
fn there_is_a_page_for_each_command_and_those_below() {
    let place = Place::new();
    let into = place.text("man");
    fs::create_dir(&into).unwrap();
    assert_eq!(code(&replicator(&["man", "--into", &into])), 0);
    for name in
        ["replicator.8", "replicator-cluster.8", "replicator-cluster-run.8", "replicator-witness-run.8"]
    {
        let page = fs::read_to_string(Path::new(&into).join(name)).unwrap();
        assert!(page.contains(".TH") && page.contains(" 8 "), "{name}");
    }
    assert!(!Path::new(&into).join("replicator-man.8").exists(), "what is hidden has no page");
    assert_ne!(code(&replicator(&["man", "--into", &place.text("none/such")])), 0);
}
