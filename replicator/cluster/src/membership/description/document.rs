//! The description as it is written.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Description, FORMAT, Node, Policy};
use crate::membership::error::DescriptionError;

const HEAD: &str = "# The cluster as both nodes know it. Kept by replicator: change it with \"replicator cluster\", which tells the peer.\n\n";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Document {
    format: u32,
    version: u64,
    cluster: Cluster,
    #[serde(skip_serializing_if = "Option::is_none")]
    arbiter: Option<toml::Table>,
    node: Vec<Member>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Cluster {
    name: String,
    id: String,
    authority: String,
    #[serde(default)]
    policy: Policy,
}

/// A node, on the disk and on the way to the one it joins.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Member {
    name: String,
    id: String,
    control: SocketAddr,
    mirror: Vec<IpAddr>,
    heartbeat: BTreeMap<String, SocketAddr>,
}

/// Read first: what is not of this format need not have its other keys.
#[derive(Deserialize)]
struct Formatted {
    format: u32,
}

pub(super) fn read(text: &str) -> Result<Description, DescriptionError> {
    let Formatted { format } = toml::from_str(text).map_err(|error| syntax(text, &error))?;
    if format != FORMAT {
        return Err(DescriptionError::Format { found: format, known: FORMAT });
    }
    let document: Document = toml::from_str(text).map_err(|error| syntax(text, &error))?;
    let cluster = document.cluster;
    let nodes = document.node.into_iter().map(|member| {
        Ok(Node {
            id: member.id.parse()?,
            name: member.name,
            heartbeat: member.heartbeat,
            control: member.control,
            mirror: member.mirror,
        })
    });
    Ok(Description {
        version: document.version,
        id: cluster.id.parse()?,
        authority: cluster.authority.parse()?,
        name: cluster.name,
        policy: cluster.policy,
        arbiter: document.arbiter,
        nodes: nodes.collect::<Result<_, DescriptionError>>()?,
    })
}

fn syntax(text: &str, error: &toml::de::Error) -> DescriptionError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    DescriptionError::Syntax { line, column, message: error.message().to_owned() }
}

pub(super) fn write(description: &Description) -> Result<String, DescriptionError> {
    let nodes = description.nodes.iter().map(|node| Member {
        name: node.name.clone(),
        id: node.id.to_string(),
        control: node.control,
        mirror: node.mirror.clone(),
        heartbeat: node.heartbeat.clone(),
    });
    let document = Document {
        format: FORMAT,
        version: description.version,
        cluster: Cluster {
            name: description.name.clone(),
            id: description.id.to_string(),
            authority: description.authority.to_string(),
            policy: description.policy,
        },
        arbiter: description.arbiter.clone(),
        node: nodes.collect(),
    };
    let body = toml::to_string(&document).map_err(|error| DescriptionError::Unwritable(error.to_string()))?;
    Ok(format!("{HEAD}{body}"))
}
