//! Two nodes, their file systems and the cable between them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::compare::{self, Comparison};
use super::image::{Filesystem, LoopImage, MIB};
use super::machine::Machine;
use super::net::Pair;
use super::node::{self, Node};
use super::papers::Papers;
use super::place::Place;
use super::{status::Status, wait};
use crate::{product, setup};

/// Port on which the secondary listens, inside its namespace.
pub const PORT: u16 = 7600;
/// Longest time until both nodes hold the same after a start or a return.
pub const MIRRORED_BOUND: Duration = Duration::from_secs(60);
/// Longest time until the trees are the same after the last write.
pub const IDENTICAL_BOUND: Duration = Duration::from_secs(30);

/// Complaints a node makes wherever the kernel refuses to let programs be attached to functions.
const EVERYWHERE: &[&str] = &["goes unseen by the kernel programs"];

/// What kind of mirror is built.
#[derive(Clone, Debug)]
pub struct Options {
    /// File system of both sides.
    pub filesystem: Filesystem,
    /// Size of the primary's image in bytes.
    pub primary_bytes: u64,
    /// Size of the secondary's image in bytes.
    pub secondary_bytes: u64,
    /// Names of the mirrored directories below the file system's root; an empty name is the root itself.
    pub directories: Vec<&'static str>,
    /// The nodes' disks can lose their power; the nodes' own state is on them, too.
    pub machines: bool,
    /// The link is encrypted.
    pub encrypted: bool,
    /// Keys (`mirror.mode`, ...) set on both nodes, over the lab's own.
    pub settings: Vec<(&'static str, toml::Value)>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            filesystem: Filesystem::Ext4,
            primary_bytes: 192 * MIB,
            secondary_bytes: 192 * MIB,
            directories: vec!["data"],
            machines: false,
            encrypted: false,
            settings: Vec::new(),
        }
    }
}

impl Options {
    /// The same with one key set.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<toml::Value>) -> Options {
        self.settings.push((key, value.into()));
        self
    }

    /// The same with images of another size.
    #[must_use]
    pub fn sized(mut self, bytes: u64) -> Options {
        self.primary_bytes = bytes;
        self.secondary_bytes = bytes;
        self
    }
}

/// In which surroundings two nodes run.
#[derive(Clone, Debug, clap::Args)]
pub struct Surroundings {
    /// Force a row of the capture table: tracepoints, gate, fentry.
    #[arg(long)]
    pub capture: Option<String>,
    /// File system of both nodes, and of the native side.
    #[arg(long, value_enum, default_value_t = Filesystem::Ext4)]
    pub fs: Filesystem,
    /// Encrypt the link between the nodes.
    #[arg(long)]
    pub encrypted: bool,
}

impl Surroundings {
    /// What a mirror is built with if nothing special is wanted.
    #[must_use]
    pub fn options(&self) -> Options {
        let options = Options { filesystem: self.fs, encrypted: self.encrypted, ..Options::default() };
        match &self.capture {
            Some(row) => options.with("mirror.capture", row.as_str()),
            None => options,
        }
    }
}

/// What kind of mirror the person wants.
#[derive(clap::Args)]
pub struct Kind {
    /// When an fsync returns: sync, semi-sync, async.
    #[arg(long)]
    pub mode: Option<String>,
    #[command(flatten)]
    pub surroundings: Surroundings,
}

impl Kind {
    /// A mirror of that kind, with images of this many bytes.
    #[must_use]
    pub fn options(&self, bytes: u64) -> Options {
        let options = self.surroundings.options().sized(bytes);
        match &self.mode {
            Some(mode) => options.with("mirror.mode", mode.as_str()),
            None => options,
        }
    }
}

/// What a node's file system is on.
#[derive(Debug)]
pub(super) enum Medium {
    /// A plain file.
    Image(LoopImage),
    /// A disk whose power can be cut.
    Machine(Machine),
}

impl Medium {
    fn new(options: &Options, place: &Place, name: &str, bytes: u64) -> Result<Medium> {
        Ok(if options.machines {
            Medium::Machine(Machine::new(place.path(), name, options.filesystem, bytes)?)
        } else {
            Medium::Image(LoopImage::new(place.path(), name, options.filesystem, bytes)?)
        })
    }

    fn path(&self) -> &Path {
        match self {
            Medium::Image(image) => image.path(),
            Medium::Machine(machine) => machine.path(),
        }
    }
}

/// Two nodes. Dropping it takes everything down; [`Mirror::finish`] does so in order and checks.
#[derive(Debug)]
pub struct Mirror {
    // Dropped in this order: daemons (which unmount), then namespaces, then file systems, then the directory.
    /// The node on which the applications write.
    pub primary: Node,
    /// The node that holds the copy.
    pub secondary: Node,
    /// The network.
    pub net: Pair,
    /// The primary's and the secondary's.
    pub(super) media: [Medium; 2],
    papers: Papers,
    place: Place,
}

impl Mirror {
    /// Build everything, start nothing.
    ///
    /// # Errors
    /// The machine lacks something; the message names it.
    pub fn build(options: &Options) -> Result<Mirror> {
        setup::require_root("two nodes on one machine")?;
        setup::require(&["ip", "mount", "umount", "fusermount3", options.filesystem.maker()])?;
        setup::require_fuse()?;
        let program = product::build()?;
        let place = Place::new()?;
        let key = place.path().join("cluster-key");
        node::write_key(&key, "9f1c5a7be3d2480697b1c4e8d05f6a233b7ce9140d8f5261a7b39e4c6d12f081")?;
        let papers = Papers::new(&place.path().join("papers"))?;
        let net = Pair::new(&place)?;
        let side = |name: &'static str, role, bytes| -> Result<(Medium, Node)> {
            let home = place.path().join(format!("{name}.node"));
            let medium = Medium::new(options, &place, name, bytes)?;
            let directories = directories(medium.path(), &options.directories)?;
            let mut node = Node::new(name, role, &program, &home, &key, directories)?;
            let side = if role == "primary" { "link.peer" } else { "link.listen" };
            node.config.set(side, net.b.socket(PORT).to_string());
            if options.encrypted {
                papers.use_in(&mut node.config, name, if name == "a" { "b" } else { "a" });
            }
            for (key, value) in &options.settings {
                node.config.set(key, value.clone());
            }
            if options.machines {
                node.keep_state_in(&medium.path().join("state"));
            }
            Ok((medium, node))
        };
        let (image_a, primary) = side("a", "primary", options.primary_bytes)?;
        let (image_b, secondary) = side("b", "secondary", options.secondary_bytes)?;
        let mirror = Mirror { primary, secondary, net, media: [image_a, image_b], papers, place };
        mirror.issue_certificates()?;
        Ok(mirror)
    }

    /// Give both nodes new certificates, in the places of those they have.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn issue_certificates(&self) -> Result<()> {
        self.nodes().iter().try_for_each(|node| self.papers.issue(&node.name))
    }

    /// Have both nodes encrypt the link from their next start on, or not.
    pub fn encrypt(&mut self, encrypted: bool) {
        for (node, peer) in [(&mut self.primary, "b"), (&mut self.secondary, "a")] {
            let name = node.name.clone();
            self.papers.use_in(&mut node.config, &name, peer);
            node.config.set("link.encryption", if encrypted { "tls" } else { "none" });
        }
    }

    /// Build, start the secondary and then the primary, and wait until both hold the same.
    ///
    /// # Errors
    /// As [`Mirror::build`]; or a node does not come up.
    pub fn start(options: &Options) -> Result<Mirror> {
        let mut mirror = Mirror::build(options)?;
        mirror.start_nodes()?;
        Ok(mirror)
    }

    /// Start what does not run and wait until both hold the same.
    ///
    /// # Errors
    /// A node does not come up.
    pub fn start_nodes(&mut self) -> Result<()> {
        self.start_secondary()?;
        self.start_primary()?;
        self.wait_mirrored()
    }

    /// Start the secondary's daemon, if it does not run.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_secondary(&mut self) -> Result<()> {
        if self.secondary.pid().is_none() { self.secondary.start(&self.net.b) } else { Ok(()) }
    }

    /// Start the primary's daemon, if it does not run.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_primary(&mut self) -> Result<()> {
        if self.primary.pid().is_none() { self.primary.start(&self.net.a) } else { Ok(()) }
    }

    /// Wait until both nodes say that they hold the same.
    ///
    /// # Errors
    /// It did not happen within [`MIRRORED_BOUND`].
    pub fn wait_mirrored(&mut self) -> Result<()> {
        self.primary.wait_for("Mirrored", MIRRORED_BOUND, Status::is_mirrored)?;
        self.secondary.wait_for("Following", MIRRORED_BOUND, Status::is_mirrored)?;
        Ok(())
    }

    /// The primary and the secondary.
    #[must_use]
    pub fn nodes(&self) -> [&Node; 2] {
        [&self.primary, &self.secondary]
    }

    /// Where applications write.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.primary.directories.first().map_or(Path::new("/nonexistent"), PathBuf::as_path)
    }

    /// Where the copy is.
    #[must_use]
    pub fn copy(&self) -> &Path {
        self.secondary.directories.first().map_or(Path::new("/nonexistent"), PathBuf::as_path)
    }

    /// A directory outside everything that is mirrored.
    #[must_use]
    pub fn outside(&self) -> &Path {
        self.place.path()
    }

    /// Compare the trees now.
    ///
    /// # Errors
    /// A tree cannot be read.
    pub fn compare(&self) -> Result<Comparison> {
        let mut all = Comparison::default();
        for (left, right) in self.primary.directories.iter().zip(&self.secondary.directories) {
            let one = compare::trees(left, right)?;
            all.entries += one.entries;
            all.bytes += one.bytes;
            all.count += one.count;
            all.differences.extend(one.differences);
        }
        Ok(all)
    }

    /// With the writers at rest: wait until nothing is on its way and the trees are the same.
    ///
    /// # Errors
    /// They still differ after [`IDENTICAL_BOUND`]; the message names the first differences.
    pub fn wait_identical(&mut self) -> Result<Comparison> {
        self.wait_identical_within(IDENTICAL_BOUND)
    }

    /// As [`Mirror::wait_identical`] with another bound.
    ///
    /// # Errors
    /// They still differ after `bound`.
    pub fn wait_identical_within(&mut self, bound: Duration) -> Result<Comparison> {
        let found = self.wait_same_trees(bound)?;
        // Marks on what is the same (or gone) would keep a later absence from ending.
        self.primary.wait_for("nothing is dirty, as both trees are the same", bound, Status::is_settled)?;
        Ok(found)
    }

    /// As [`Mirror::wait_identical_within`], while somebody may yet write.
    ///
    /// # Errors
    /// They still differ after `bound`.
    pub fn wait_same_trees(&mut self, bound: Duration) -> Result<Comparison> {
        let mut last = Comparison::default();
        let found = wait::until("both trees to be the same", bound, || {
            // An entry may vanish while it is looked at, as long as something is still on its way.
            last = match self.compare() {
                Ok(found) => found,
                Err(error) => {
                    Comparison { count: 1, differences: vec![format!("{error:#}")], ..Comparison::default() }
                }
            };
            Ok(last.is_identical().then(|| last.clone()))
        });
        found.with_context(|| format!("{} differences:\n  {}", last.count, last.differences.join("\n  ")))
    }

    /// Stop both nodes in order, require plain and equal directories, and logs without complaints.
    ///
    /// # Errors
    /// Any of these does not hold.
    pub fn finish(mut self, expected: &[&str]) -> Result<Comparison> {
        self.primary.stop()?;
        self.secondary.stop()?;
        let found = self.compare()?;
        if !found.is_identical() {
            bail!("after the stop, {} differences:\n  {}", found.count, found.differences.join("\n  "));
        }
        self.require_plain()?;
        // The primary was stopped first.
        self.check_logs(&[expected, &["session closed"]].concat())?;
        Ok(found)
    }

    /// Require that nothing is mounted over the directories.
    ///
    /// # Errors
    /// Something is.
    pub fn require_plain(&self) -> Result<()> {
        let gates = super::place::gates_below(self.place.path())?;
        if let Some(point) = gates.first() {
            bail!("{} is still mounted over after the stop", point.display());
        }
        Ok(())
    }

    /// Fail if one of the logs holds a complaint that was not expected.
    ///
    /// # Errors
    /// The complaints.
    pub fn check_logs(&self, expected: &[&str]) -> Result<()> {
        let expected = [EVERYWHERE, expected].concat();
        self.primary.check_log(&expected)?;
        self.secondary.check_log(&expected)
    }

    /// Kill -9 everything in the primary's namespace: its daemon and whoever was started there.
    ///
    /// # Errors
    /// Something survives.
    pub fn kill_primary_side(&mut self) -> Result<()> {
        // The daemon first: whoever waits in the gate can only end when it is gone.
        self.primary.kill()?;
        self.net.a.kill_all()
    }
}

fn directories(root: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    names
        .iter()
        .map(|name| {
            let path = if name.is_empty() { root.to_owned() } else { root.join(name) };
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
            Ok(path)
        })
        .collect()
}
