//! The configuration of a module's mirror: what its description says, and what the cluster knows.

use replicator_cluster::daemon::service::MirrorPlace;
use replicator_cluster::module::Description;
use toml::{Table, Value};

use crate::config::Config;

/// Keys of `[mirror]` that are the cluster's: nobody else may say when a node goes alone.
const OURS: &[&str] = &["when-alone", "directories"];
/// Beats of the link within its dead time.
const BEATS: u32 = 12;

/// The configuration as text, and parsed.
///
/// # Errors
/// For a person: what of the description the mirror does not take.
pub fn configuration(description: &Description, place: &MirrorPlace) -> Result<(String, Config), String> {
    let mut mirror = description.mirror.clone();
    mirror.remove("port");
    if let Some(key) = OURS.iter().find(|key| mirror.contains_key(**key)) {
        return Err(format!("mirror.{key} is not for a module: the cluster says that (remove it)"));
    }
    let encryption = match mirror.remove("encryption") {
        None => "tls".to_owned(),
        Some(Value::String(word)) if ["tls", "none"].contains(&word.as_str()) => word,
        Some(other) => return Err(format!("mirror.encryption: {other} is neither \"tls\" nor \"none\"")),
    };
    let text = |text: &dyn ToString| Value::String(text.to_string());
    let path = |path: &std::path::Path| Value::String(path.to_string_lossy().into_owned());
    let directories = description.directories.iter().map(|directory| path(&directory.path)).collect();
    mirror.insert("directories".to_owned(), Value::Array(directories));
    mirror.insert("when-alone".to_owned(), "ask".into());
    let node = Table::from_iter([
        ("name".to_owned(), text(&place.names.1)),
        ("cluster".to_owned(), text(&place.names.0)),
        // The command line says which role it is.
        ("role".to_owned(), "secondary".into()),
        ("state-directory".to_owned(), path(&place.state)),
        ("control-socket".to_owned(), path(&place.run.join("mirror.sock"))),
    ]);
    let millis = |span: std::time::Duration| Value::String(format!("{}ms", span.as_millis()));
    let mut link = Table::from_iter([
        ("listen".to_owned(), text(&place.listen)),
        ("peer".to_owned(), text(&place.peer)),
        ("cluster-key-file".to_owned(), path(&place.key_file)),
        ("dead-after".to_owned(), millis(place.dead_after)),
        ("keep-alive-interval".to_owned(), millis(place.dead_after / BEATS)),
        ("reconnect-max".to_owned(), "500ms".into()),
    ]);
    if encryption == "tls" {
        link.extend([
            ("authority-file".to_owned(), path(&place.tls.authority)),
            ("certificate-file".to_owned(), path(&place.tls.node)),
            ("peer-identity".to_owned(), text(&place.tls.peer)),
        ]);
    }
    link.insert("encryption".to_owned(), Value::String(encryption));
    let own = description.directories.iter().filter(|directory| directory.table.len() > 1);
    let own = own.map(|directory| Value::Table(directory.table.clone())).collect::<Vec<_>>();
    let mut document = Table::from_iter([
        ("node".to_owned(), Value::Table(node)),
        ("link".to_owned(), Value::Table(link)),
        ("mirror".to_owned(), Value::Table(mirror)),
    ]);
    if !own.is_empty() {
        document.insert("directory".to_owned(), Value::Array(own));
    }
    let text = toml::to_string(&document).map_err(|error| error.to_string())?;
    let config = Config::parse(&text).map_err(|error| error.to_string())?;
    Ok((text, config))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use replicator_cluster::daemon::service::MirrorTls;

    use super::*;
    use crate::config::{Role, WhenAlone};

    fn place() -> MirrorPlace {
        MirrorPlace {
            names: ("shop.web".to_owned(), "alpha".to_owned()),
            listen: "10.0.0.1:7420".parse().unwrap(),
            peer: "10.0.0.2:7420".parse().unwrap(),
            key_file: PathBuf::from("/etc/replicator/cluster/mirror.key"),
            tls: MirrorTls {
                authority: PathBuf::from("/etc/replicator/cluster/authority.pem"),
                node: PathBuf::from("/etc/replicator/cluster/node.pem"),
                peer: "replicator://0a/beta/0b".to_owned(),
            },
            state: PathBuf::from("/var/lib/replicator/web/mirror"),
            run: PathBuf::from("/run/replicator/web"),
            dead_after: Duration::from_millis(2400),
            overrules: false,
            keeps_ready: false,
        }
    }

    fn description(text: &str) -> Description {
        Description::parse(text).unwrap()
    }

    #[test]
    fn a_module_becomes_a_configuration_that_the_mirror_takes() {
        let module = description(
            "[module]\nname = \"web\"\n[mirror]\nport = 7421\nmode = \"semi-sync\"\n\
             [[directory]]\npath = \"/srv/web\"\nexclude = [\"*.tmp\"]\n[[directory]]\npath = \"/srv/more\"\n",
        );
        let (_, config) = configuration(&module, &place()).unwrap();
        assert_eq!(config.mirror.when_alone, WhenAlone::Ask);
        assert_eq!(config.mirror.directories, [PathBuf::from("/srv/web"), PathBuf::from("/srv/more")]);
        assert_eq!((config.node.role, config.node.cluster.as_str()), (Role::Secondary, "shop.web"));
        assert_eq!(config.link.dead_after, Duration::from_millis(2400));
        assert_eq!(config.link.keep_alive_interval, Duration::from_millis(200));
        assert!(config.mirror.trees[0].patterns.is_some() && config.mirror.trees[1].patterns.is_none());
    }

    #[test]
    fn the_link_is_encrypted_with_the_cluster_s_certificates_unless_the_module_does_without() {
        let module = |line: &str| {
            description(&format!(
                "[module]\nname = \"web\"\n[mirror]\n{line}\n[[directory]]\npath = \"/srv/web\"\n"
            ))
        };
        let (_, config) = configuration(&module(""), &place()).unwrap();
        let tls = config.link.tls.unwrap();
        assert_eq!((&tls.authority, &tls.certificate), (&place().tls.authority, &place().tls.node));
        assert_eq!((&tls.key, tls.peer), (&place().tls.node, place().tls.peer));
        let (_, config) = configuration(&module("encryption = \"tls\""), &place()).unwrap();
        assert!(config.link.tls.is_some());
        let (_, config) = configuration(&module("encryption = \"none\""), &place()).unwrap();
        assert_eq!(config.link.tls, None);
        assert_eq!(
            config.link.cluster_key_file,
            Some(place().key_file),
            "the peers prove who they are all the same"
        );
        for wrong in ["encryption = \"off\"", "encryption = false"] {
            assert!(configuration(&module(wrong), &place()).unwrap_err().contains("mirror.encryption"));
        }
    }

    #[test]
    fn what_the_cluster_decides_is_not_taken_from_a_module() {
        let module = description(
            "[module]\nname = \"web\"\n[mirror]\nwhen-alone = \"release\"\n[[directory]]\npath = \"/srv/web\"\n",
        );
        assert!(configuration(&module, &place()).unwrap_err().contains("when-alone"));
    }
}
