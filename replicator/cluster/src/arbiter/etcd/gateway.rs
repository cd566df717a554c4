//! etcd's v3 API as its HTTP gateway speaks it: JSON, keys and values in base64, 64-bit numbers as strings, zero values left out.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use ureq::Agent;

/// Longest response that is read, in bytes.
const RESPONSE_BYTES_MAX: u64 = 64 << 10;

/// A key's value in etcd.
pub(in crate::arbiter) struct Found {
    /// The revision of its last change, as a number in decimal. `"0"`: there is no such key.
    pub revision: String,
    /// The value's bytes. `None`: there is no such key.
    pub value: Option<Vec<u8>>,
}

/// What etcd says about a key.
pub(in crate::arbiter) struct State {
    /// Which etcd cluster it is.
    pub cluster: u64,
    /// What it holds.
    pub found: Found,
}

/// What became of an exchange of a value.
pub(in crate::arbiter) enum Exchange {
    /// The new value is in.
    Done,
    /// Somebody changed it meanwhile.
    Overtaken(State),
}

#[derive(Deserialize)]
struct Header {
    cluster_id: String,
}

#[derive(Deserialize)]
struct Pair {
    mod_revision: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct Range {
    #[serde(default)]
    header: Option<Header>,
    #[serde(default)]
    kvs: Vec<Pair>,
}

/// A range within a transaction. Its header names no cluster; that of the transaction does.
#[derive(Deserialize)]
struct Pairs {
    #[serde(default)]
    kvs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Step {
    #[serde(default)]
    response_range: Option<Pairs>,
}

#[derive(Deserialize)]
struct Transaction {
    header: Header,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<Step>,
}

/// Read a key, as of now (a linearizable read: a majority has confirmed it).
///
/// # Errors
/// Why not, in words.
pub(in crate::arbiter) fn read(
    agent: &Agent,
    endpoint: &str,
    key: &str,
    limit: Duration,
) -> Result<State, String> {
    let range: Range =
        post(agent, &format!("{endpoint}/v3/kv/range"), &json!({ "key": STANDARD.encode(key) }), limit)?;
    let cluster = cluster(range.header.as_ref())?;
    Ok(State { cluster, found: found(range.kvs)? })
}

/// Put `value` in if the key was last changed at `revision`.
///
/// # Errors
/// Why it is not known whether it is in, in words.
pub(in crate::arbiter) fn exchange(
    agent: &Agent,
    endpoint: &str,
    key: &str,
    revision: &str,
    value: &[u8],
    limit: Duration,
) -> Result<Exchange, String> {
    let key = STANDARD.encode(key);
    let body = json!({
        "compare": [{ "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision }],
        "success": [{ "request_put": { "key": key, "value": STANDARD.encode(value) } }],
        "failure": [{ "request_range": { "key": key } }],
    });
    let transaction: Transaction = post(agent, &format!("{endpoint}/v3/kv/txn"), &body, limit)?;
    if transaction.succeeded {
        return Ok(Exchange::Done);
    }
    let range = transaction.responses.into_iter().find_map(|step| step.response_range);
    let range = range.ok_or("etcd refused a transaction and did not say what it holds")?;
    let cluster = cluster(Some(&transaction.header))?;
    Ok(Exchange::Overtaken(State { cluster, found: found(range.kvs)? }))
}

fn post<T: for<'a> Deserialize<'a>>(
    agent: &Agent,
    url: &str,
    body: &serde_json::Value,
    limit: Duration,
) -> Result<T, String> {
    let failed = |error: ureq::Error| format!("{url}: {error}");
    let request = agent.post(url).config().timeout_global(Some(limit)).build();
    let mut response = request.send_json(body).map_err(failed)?;
    let status = response.status();
    let bytes = response.body_mut().with_config().limit(RESPONSE_BYTES_MAX).read_to_vec().map_err(failed)?;
    if !status.is_success() {
        return Err(format!("{url}: {status}: {}", complaint(&bytes)));
    }
    serde_json::from_slice(&bytes).map_err(|error| format!("{url}: not an answer of etcd: {error}"))
}

/// The words in an error's body, if it is one of etcd's.
fn complaint(bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Complaint {
        error: String,
    }
    serde_json::from_slice(bytes).map_or_else(|_| "no reason given".to_owned(), |said: Complaint| said.error)
}

fn cluster(header: Option<&Header>) -> Result<u64, String> {
    let number = header.and_then(|header| header.cluster_id.parse().ok());
    number.ok_or_else(|| "etcd did not say which cluster it is".to_owned())
}

fn found(pairs: Vec<Pair>) -> Result<Found, String> {
    let Some(pair) = pairs.into_iter().next() else {
        return Ok(Found { revision: "0".to_owned(), value: None });
    };
    if pair.mod_revision.parse::<u64>().is_err() {
        return Err("etcd gave a revision that is no number".to_owned());
    }
    let value = STANDARD
        .decode(&pair.value)
        .map_err(|error| format!("etcd gave a value that is not base64: {error}"))?;
    Ok(Found { revision: pair.mod_revision, value: Some(value) })
}
