//! What operators get wrong, and machines that lack something: each ends at once with a message that names the thing, an exit code
//! that is not 0, and never with a panic or a hang.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Context, Outcome, passed};
use crate::lab::mirror::{Mirror, Options, PORT};
use crate::lab::node::{self, refused};
use crate::setup;

const NOBODY: u32 = 65534;
/// Hides /dev/fuse in a mount namespace of its own, then becomes the command it is given.
const WITHOUT_FUSE: &str = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && \
                            mknod -m 666 /dev/urandom c 1 9 && exec \"$@\"";

/// One wrong setting: what is set, and the words the message must hold.
type Wrong = (&'static str, toml::Value, Vec<String>);

/// Make the situations and check.
pub fn run(context: &Context) -> Result<Outcome> {
    setup::require(&["setpriv", "unshare"])?;
    let mut mirror = Mirror::build(&Options { directories: vec!["data"], ..context.options() })?;
    let mut cases = 0;
    for (key, value, words) in wrong_settings(&mirror) {
        let right = mirror.primary.config.clone();
        mirror.primary.config.set(key, value.clone());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        mirror.primary.refused(&mirror.net.a)?.naming(&words).with_context(|| format!("{key} = {value}"))?;
        mirror.primary.config = right;
        cases += 1;
    }
    missing_file(&mirror)?;
    same_directory(&mut mirror)?;
    port_in_use(&mut mirror)?;
    not_root(&mirror)?;
    without_fuse(&mirror)?;
    // And after all of this the same nodes come up.
    mirror.start_nodes()?;
    mirror.finish(&[])?;
    passed(format!("{} kinds of bad input, each refused in words", cases + 5))
}

fn wrong_settings(mirror: &Mirror) -> Vec<Wrong> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let data = text(mirror.data());
    let inside = mirror.data().join("inside");
    let missing = mirror.outside().join("missing");
    // If it cannot be made the case fails by itself.
    let _ = fs::create_dir(&inside);
    let list = |paths: &[&str]| toml::Value::Array(paths.iter().map(|path| (*path).into()).collect());
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    vec![
        ("mirror.moed", "sync".into(), words(&["moed", "mode"])),
        ("miror.mode", "sync".into(), words(&["miror", "mirror"])),
        ("mirror.mode", "fast".into(), words(&["fast", "sync"])),
        ("mirror.trace-ring", "5 bananas".into(), words(&["trace-ring"])),
        ("link.peer", "not an address".into(), words(&["peer"])),
        ("link.dead-after", "soon".into(), words(&["dead-after"])),
        ("mirror.directories", list(&[&text(&missing)]), words(&[&text(&missing)])),
        ("mirror.directories", list(&[]), words(&["directories"])),
        ("mirror.directories", list(&[&data, &text(&inside)]), words(&[&data, &text(&inside)])),
        ("mirror.directories", list(&[&data, &data]), words(&[&data])),
        ("mirror.directories", list(&["relative/path"]), words(&["relative/path"])),
        ("node.state-directory", text(&inside).into(), words(&[&text(&inside)])),
        ("node.role", "leader".into(), words(&["leader", "primary"])),
        ("link.cluster-key-file", text(&missing).into(), words(&[&text(&missing)])),
    ]
}

fn missing_file(mirror: &Mirror) -> Result<()> {
    let path = mirror.outside().join("no-such.toml");
    let mut command = Command::new(&mirror.primary.program);
    command.arg("run").arg("--config").arg(&path);
    refused(command, &mirror.primary.log)?
        .naming(&["no-such.toml"])
        .context("a configuration that does not exist")
}

/// Both nodes are told to use the same directory of this machine.
fn same_directory(mirror: &mut Mirror) -> Result<()> {
    mirror.start_secondary()?;
    let right = mirror.primary.config.clone();
    let copy = mirror.copy().to_string_lossy().into_owned();
    mirror.primary.config.set("mirror.directories", toml::Value::Array(vec![copy.as_str().into()]));
    mirror.primary.refused(&mirror.net.a)?.naming(&[&copy]).context("the same directory on both nodes")?;
    mirror.primary.config = right;
    mirror.secondary.stop()
}

fn port_in_use(mirror: &mut Mirror) -> Result<()> {
    let address = mirror.net.b.socket(PORT);
    let _taken = mirror.net.b.within(|| Ok(TcpListener::bind(address)?))?;
    mirror.secondary.refused(&mirror.net.b)?.naming(&[&PORT.to_string()]).context("port in use")
}

fn not_root(mirror: &Mirror) -> Result<()> {
    // Everything this user may need is theirs, so that root's power alone is what is missing.
    let home = mirror.outside().join("nobody");
    let open = |path: &Path, mode| -> Result<()> {
        chown(path, Some(NOBODY), Some(NOBODY))?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
    };
    fs::create_dir(&home)?;
    open(&home, 0o755)?;
    for name in ["state", "data"] {
        fs::create_dir(home.join(name))?;
        open(&home.join(name), 0o700)?;
    }
    let program = home.join("replicator");
    fs::copy(&mirror.primary.program, &program)?;
    open(&program, 0o755)?;
    let key = home.join("key");
    node::write_key(&key, &"7".repeat(64))?;
    open(&key, 0o600)?;
    let mut config = mirror.primary.config.clone();
    let text = |name: &str| toml::Value::from(home.join(name).to_string_lossy().into_owned());
    config.set("node.state-directory", text("state"));
    config.set("node.control-socket", text("control"));
    config.set("link.cluster-key-file", text("key"));
    config.set("mirror.directories", toml::Value::Array(vec![text("data")]));
    let file = home.join("replicator.toml");
    fs::write(&file, config.text()?)?;
    open(&file, 0o644)?;
    let mut command = Command::new(setup::program("setpriv"));
    let nobody = NOBODY.to_string();
    command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--"]);
    command.arg(&program).arg("run").arg("--config").arg(&file);
    mirror.net.a.enter(&mut command)?;
    refused(command, &mirror.primary.log)?.naming(&["root"]).context("not root")
}

fn without_fuse(mirror: &Mirror) -> Result<()> {
    let mut command = Command::new(setup::program("unshare"));
    command.args(["--mount", "sh", "-c", WITHOUT_FUSE, "sh"]);
    command.arg(&mirror.primary.program).arg("run").arg("--config").arg(mirror.primary.config_file());
    fs::write(mirror.primary.config_file(), mirror.primary.config.text()?)?;
    mirror.net.a.enter(&mut command)?;
    refused(command, &mirror.primary.log)?.naming(&["/dev/fuse"]).context("no /dev/fuse")
}
