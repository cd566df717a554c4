//! The module postgresql with the true server: started, asked, killed, stopped by force, and never started beside what is left of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use replicator_cluster::module::{
    Application, CheckerEvent, Checkers, Circumstances, Description, Paths, Phase, ProbeDescription, Role,
    Shelf, Verdict,
};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// A server of the test's own. Whatever becomes of the test, nothing of it is left.
struct Server {
    place: tempfile::TempDir,
    binaries: PathBuf,
}

impl Server {
    /// `None` if this machine cannot run one.
    fn new() -> Option<Server> {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let Some(binaries) =
            versions.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").exists())
        else {
            eprintln!("not run: no PostgreSQL is installed");
            return None;
        };
        let (Ok(Some(user)), true) =
            (nix::unistd::User::from_name("postgres"), nix::unistd::geteuid().is_root())
        else {
            eprintln!("not run: needs root and the user postgres");
            return None;
        };
        let place = tempfile::tempdir().expect("a directory");
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        for name in ["data", "socket", "log-of-server"] {
            fs::create_dir(place.path().join(name)).expect("create");
            chown(place.path().join(name), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown");
        }
        let server = Server { place, binaries };
        let made = Command::new("runuser")
            .args(["-u", "postgres", "--"])
            .arg(server.binaries.join("initdb"))
            .args(["--no-sync", "--auth=trust", "--no-instructions", "-D"])
            .arg(server.data())
            .current_dir(server.place.path())
            .output()
            .expect("initdb");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let socket = server.place.path().join("socket");
        let settings = format!("listen_addresses = ''\nunix_socket_directories = '{}'\n", socket.display());
        let configuration = server.data().join("postgresql.conf");
        let text = fs::read_to_string(&configuration).expect("read");
        fs::write(&configuration, text + &settings).expect("write");
        Some(server)
    }

    fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    fn pid_file(&self) -> PathBuf {
        self.data().join("postmaster.pid")
    }

    /// The module with the paths of this server.
    fn application(&self) -> Application {
        let at = |name: &str| self.place.path().join(name);
        let shelf = Shelf::at(at("modules"));
        let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules/postgresql");
        let mut description = match shelf.load("postgresql") {
            Ok(description) => description,
            Err(_) => shelf.install(&module, false).expect("installed"),
        };
        self.adapt(&mut description);
        let paths = Paths { module: shelf.path("postgresql"), logs: at("log"), run: at("run") };
        Application::new(Arc::new(description), &paths)
    }

    fn adapt(&self, description: &mut Description) {
        let text = |path: PathBuf| path.display().to_string();
        let values = [
            ("PGDATA", text(self.data())),
            ("PG_CONFIG", String::new()),
            ("PG_BIN", text(self.binaries.clone())),
            ("PG_LOG", text(self.place.path().join("log-of-server/log"))),
            ("PG_SOCKET", text(self.place.path().join("socket"))),
        ];
        for (variable, value) in values {
            assert!(description.environment.insert(variable.into(), value).is_some(), "{variable}");
        }
        for checker in &mut description.checkers {
            match &mut checker.probe {
                ProbeDescription::Process(process) => process.pid_file = Some(self.pid_file()),
                ProbeDescription::Disk { path, .. } => *path = self.data(),
                _ => {}
            }
            checker.interval = Duration::from_millis(200);
        }
    }

    /// The processes whose working directory is the server's.
    fn processes(&self) -> Vec<i32> {
        let data = fs::canonicalize(self.data()).expect("the data");
        let entries = fs::read_dir("/proc").expect("proc").flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data))
            .collect()
    }

    fn kill(&self, pid: i32) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }

    fn postmaster(&self) -> i32 {
        let text = fs::read_to_string(self.pid_file()).expect("a pid file");
        text.lines().next().and_then(|line| line.trim().parse().ok()).expect("a pid")
    }

    fn ask(&self, query: &str) -> String {
        let asked = Command::new(self.binaries.join("psql"))
            .args(["-X", "-A", "-t", "-U", "postgres", "-d", "postgres", "-h"])
            .arg(self.place.path().join("socket"))
            .args(["-c", query])
            .output()
            .expect("psql");
        assert!(asked.status.success(), "{query}: {}", String::from_utf8_lossy(&asked.stderr));
        String::from_utf8_lossy(&asked.stdout).trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for pid in self.processes() {
            self.kill(pid);
        }
    }
}

async fn until(events: &mut mpsc::Receiver<CheckerEvent>, checker: &str, verdict: Verdict) -> CheckerEvent {
    let found = async {
        loop {
            let event = events.recv().await.expect("an event");
            if event.checker == checker && event.verdict == verdict {
                return event;
            }
        }
    };
    timeout(Duration::from_secs(60), found).await.expect("a verdict in time")
}

#[tokio::test]
async fn a_life_of_a_database() {
    let Some(server) = Server::new() else { return };
    let mut application = server.application();
    let now = Circumstances::default();
    application.start(Role::Primary, &now).await.unwrap_or_else(|error| panic!("{error}"));
    server.ask("CREATE TABLE t (n int); INSERT INTO t VALUES (42)");

    let (sender, mut events) = mpsc::channel(16);
    let checkers = Checkers::start(&application, Phase::Role(Role::Primary), &now, &sender);
    until(&mut events, "process", Verdict::Up).await;
    until(&mut events, "answers", Verdict::Up).await;

    // The postmaster dies alone; a client keeps one of its processes. The checkers see it.
    server.kill(server.postmaster());
    let down = until(&mut events, "process", Verdict::Down).await;
    assert!(down.action.is_some(), "{down:?}");
    until(&mut events, "answers", Verdict::Down).await;
    drop(checkers);

    application.stop(&now, false).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(server.processes().is_empty());
    application.start(Role::Primary, &now).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(server.ask("SELECT n FROM t"), "42");

    application.stop(&now, false).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(!application.report().forced, "{:?}", application.report());
    assert!(server.processes().is_empty());
}

#[tokio::test]
async fn the_process_number_of_another_hinders_no_start() {
    let Some(server) = Server::new() else { return };
    // As after a failover: the file of the other node, whose number is that of some process here.
    let text = format!("{}\n{}\n0\n5432\n", std::process::id(), server.data().display());
    fs::write(server.pid_file(), text).expect("write");
    let mut application = server.application();
    let now = Circumstances::default();
    application.start(Role::Primary, &now).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(server.ask("SELECT 1"), "1");
    application.stop(&now, true).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(server.processes().is_empty());
}

#[tokio::test]
async fn a_server_of_an_earlier_life_is_stopped_first() {
    let Some(server) = Server::new() else { return };
    let now = Circumstances::default();
    let mut earlier = server.application();
    earlier.start(Role::Primary, &now).await.unwrap_or_else(|error| panic!("{error}"));
    let first = server.postmaster();
    drop(earlier);
    let mut application = server.application();
    application.start(Role::Primary, &now).await.unwrap_or_else(|error| panic!("{error}"));
    assert_ne!(server.postmaster(), first);
    assert_eq!(server.ask("SELECT 1"), "1");
    // A client that holds a transaction open does not hold up the stop.
    let mut client = Command::new(server.binaries.join("psql"))
        .args(["-X", "-U", "postgres", "-d", "postgres", "-h"])
        .arg(server.place.path().join("socket"))
        .args(["-c", "SELECT pg_sleep(600)"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("psql");
    while server.ask("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'") != "1" {
        sleep(Duration::from_millis(50)).await;
    }
    application.stop(&now, false).await.unwrap_or_else(|error| panic!("{error}"));
    client.wait().expect("wait");
    assert!(server.processes().is_empty());
}
