//! An etcd cluster as arbiter: the register is one key, changed by compare-and-set on its revision.
//!
//! The key is `<prefix>/<cluster>/<module>`, the cluster in hexadecimal. The value is JSON, for the eye of whoever looks at it with
//! etcdctl: `{"format":1,"term":7,"holder":"<32 digits>","generation":{"number":3,"tag":"<16 digits>"}}`. A value of another form is
//! never taken for none.
//!
//! What etcd promises holds here: a transaction that was answered is on a majority's disks. Who may write to etcd may take a primacy,
//! so it must be encrypted with client certificates, or on a network of its own. etcd's cluster id stands for the witness's
//! identity: a cluster that is made anew has another one. One that is restored from a snapshot with the same members and token may
//! have the same, and is found out by the term.

pub(super) mod gateway;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use replicator_core::ids::{Generation, Term};
use replicator_core::lineage::{GenerationId, Tag};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use ureq::Agent;
use ureq::http::Uri;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use self::gateway::{Exchange, State};
use super::attempts::{ATTEMPT, Bounds, Fault, persist};
use super::error::{ArbiterError, SetupError};
use super::known::{Distrust, Known, learn, trust};
use super::register::{Decision, NodeId, RegisterName, Value, WitnessId, decide};
use super::{Acquire, Arbiter, Outcome, Query, Reading, Strength, Verdict};

/// Where etcd is and how it is spoken to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EtcdConfig {
    /// `http://10.0.0.3:2379`, one per member, tried in turn.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// For `https://` endpoints.
    pub tls: Option<EtcdTls>,
    /// Bound of one attempt.
    pub attempt: Duration,
}

/// Certificates for etcd, in PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EtcdTls {
    /// The authority etcd's certificate is checked by.
    pub authority: PathBuf,
    /// This node's certificate and its key, if etcd wants to see one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl EtcdConfig {
    /// These endpoints, and the defaults.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> EtcdConfig {
        EtcdConfig { endpoints, prefix: "/replicator".to_owned(), tls: None, attempt: ATTEMPT }
    }
}

/// Asks an etcd cluster.
#[derive(Debug)]
pub struct EtcdArbiter {
    endpoints: Vec<String>,
    prefix: String,
    attempt: Duration,
    agent: Agent,
}

impl EtcdArbiter {
    /// Ask this etcd. Nothing is connected yet.
    ///
    /// # Errors
    /// [`SetupError`]: no endpoint, one of another form, certificates that cannot be read.
    pub fn new(config: EtcdConfig) -> Result<EtcdArbiter, SetupError> {
        if config.endpoints.is_empty() {
            return Err(SetupError::Nobody { arbiter: "etcd", what: "endpoint" });
        }
        let endpoints = config
            .endpoints
            .iter()
            .map(|endpoint| check_endpoint(endpoint, config.tls.is_some()))
            .collect::<Result<_, _>>()?;
        let mut builder = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // What the environment says about proxies is about the web, not about the arbiter.
            .proxy(None);
        if let Some(tls) = &config.tls {
            builder = builder.tls_config(tls_config(tls)?);
        }
        let prefix = config.prefix.trim_end_matches('/').to_owned();
        Ok(EtcdArbiter { endpoints, prefix, attempt: config.attempt, agent: builder.build().new_agent() })
    }

    fn key(&self, register: &RegisterName) -> String {
        format!("{}/{}/{}", self.prefix, register.cluster, register.module)
    }

    async fn persist<T, Attempt>(
        &self,
        within: Duration,
        once: impl Fn(usize, Instant) -> Attempt,
    ) -> Result<T, ArbiterError>
    where
        Attempt: Future<Output = Result<T, Fault>>,
    {
        let bounds = Bounds { within, attempt: self.attempt, places: self.endpoints.len() };
        persist(&self.name(), bounds, once).await
    }

    /// Carry out one call of the gateway on a thread that may block.
    async fn call<T: Send + 'static>(
        &self,
        place: usize,
        until: Instant,
        call: impl FnOnce(&Agent, &str, Duration) -> Result<T, String> + Send + 'static,
    ) -> Result<T, Fault> {
        let Some(endpoint) = self.endpoints.get(place).cloned() else {
            return Err(Fault::Passing("no such endpoint".into()));
        };
        let agent = self.agent.clone();
        let limit = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match tokio::task::spawn_blocking(move || call(&agent, &endpoint, limit)).await {
            Ok(result) => result.map_err(Fault::Passing),
            Err(error) => Err(Fault::Passing(format!("the call did not end: {error}"))),
        }
    }

    async fn look(&self, key: &str, place: usize, until: Instant) -> Result<State, Fault> {
        let key = key.to_owned();
        self.call(place, until, move |agent, endpoint, limit| gateway::read(agent, endpoint, &key, limit))
            .await
    }

    /// What is stored there, if its memory can be trusted.
    fn judge(&self, state: &State, known: Option<Known>) -> Result<(WitnessId, Option<Value>), Fault> {
        let witness = witness_of(state.cluster);
        let stored = match &state.found.value {
            None => None,
            Some(bytes) => Some(parse(bytes).ok_or_else(|| {
                Fault::Final(ArbiterError::Incapable {
                    arbiter: self.name(),
                    why: "the key's value is not one of replicator; look at it with etcdctl, and set it to the highest term any node shows"
                        .to_owned(),
                })
            })?),
        };
        match trust(known, witness, stored.map(|value| value.term)) {
            Ok(()) => Ok((witness, stored)),
            Err(why) => Err(Fault::Final(self.untrustworthy(why))),
        }
    }

    /// One attempt: read, decide, exchange; again if another was faster, which a higher revision shows each time.
    async fn attempt(
        &self,
        request: &Acquire,
        asked: Value,
        place: usize,
        until: Instant,
    ) -> Result<Outcome, Fault> {
        let key = self.key(&request.register);
        let mut state = self.look(&key, place, until).await?;
        loop {
            let (witness, stored) = self.judge(&state, request.known)?;
            let granted = match decide(stored, asked) {
                Decision::Refuse(current) => {
                    return self.outcome(false, current, asked, request.known, witness);
                }
                Decision::Grant(value) => value,
            };
            // A linearizable read has seen it: it is on a majority's disks already.
            if stored == Some(granted) {
                return self.outcome(true, granted, asked, request.known, witness);
            }
            let (key, revision, value) = (key.clone(), state.found.revision, render(&granted));
            let exchange = self
                .call(place, until, move |agent, endpoint, limit| {
                    gateway::exchange(agent, endpoint, &key, &revision, value.as_bytes(), limit)
                })
                .await?;
            match exchange {
                Exchange::Done => return self.outcome(true, granted, asked, request.known, witness),
                Exchange::Overtaken(now) => state = now,
            }
        }
    }

    fn outcome(
        &self,
        granted: bool,
        value: Value,
        asked: Value,
        known: Option<Known>,
        witness: WitnessId,
    ) -> Result<Outcome, Fault> {
        match Verdict::of(granted, Some(value), asked) {
            Some(verdict) => Ok(Outcome { verdict, known: Some(learn(known, witness, Some(value))) }),
            None => Err(Fault::Final(self.untrustworthy(Distrust::Contradiction))),
        }
    }

    fn untrustworthy(&self, why: Distrust) -> ArbiterError {
        ArbiterError::Untrustworthy { arbiter: self.name(), why }
    }
}

impl Arbiter for EtcdArbiter {
    async fn acquire(&self, request: &Acquire, within: Duration) -> Result<Outcome, ArbiterError> {
        let asked = request.checked()?;
        self.persist(within, |place, until| self.attempt(request, asked, place, until)).await
    }

    async fn read(&self, query: &Query, within: Duration) -> Result<Reading, ArbiterError> {
        let key = self.key(&query.register);
        let once = async |place, until| {
            let state = self.look(&key, place, until).await?;
            let (witness, value) = self.judge(&state, query.known)?;
            Ok(Reading { value, known: Some(learn(query.known, witness, value)) })
        };
        self.persist(within, once).await
    }

    fn strength(&self) -> Strength {
        Strength::Exclusive
    }

    fn name(&self) -> String {
        format!("etcd at {}", self.endpoints.join(", "))
    }
}

/// The etcd cluster's id in place of a witness's.
fn witness_of(cluster: u64) -> WitnessId {
    let mut bytes = *b"etcd cluster\0\0\0\0";
    if let Some(place) = bytes.last_chunk_mut::<8>() {
        *place = cluster.to_be_bytes();
    }
    WitnessId(bytes)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredGeneration {
    number: u64,
    tag: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    term: u64,
    holder: String,
    generation: StoredGeneration,
}

fn render(value: &Value) -> String {
    let generation = StoredGeneration {
        number: value.generation.number.0,
        tag: format!("{:016x}", value.generation.tag.0),
    };
    let stored = Stored { format: 1, term: value.term.0, holder: value.holder.to_string(), generation };
    // Numbers and text with fixed names: there is nothing in it that could not be written.
    serde_json::to_string(&stored).unwrap_or_default()
}

fn parse(bytes: &[u8]) -> Option<Value> {
    let stored: Stored = serde_json::from_slice(bytes).ok()?;
    let holder: NodeId = stored.holder.parse().ok()?;
    let tag = u64::from_str_radix(&stored.generation.tag, 16).ok()?;
    let generation = GenerationId { number: Generation(stored.generation.number), tag: Tag(tag) };
    (stored.format == 1).then_some(Value { term: Term(stored.term), holder, generation })
}

/// The endpoint without a slash at its end.
fn check_endpoint(endpoint: &str, has_tls: bool) -> Result<String, SetupError> {
    let refused = || SetupError::Endpoint { endpoint: endpoint.to_owned() };
    let uri: Uri = endpoint.parse().map_err(|_| refused())?;
    let authority = uri.authority().ok_or_else(refused)?;
    // A password in it would end up in messages.
    let plain =
        !authority.as_str().contains('@') && uri.path().trim_matches('/').is_empty() && uri.query().is_none();
    match uri.scheme_str() {
        Some("https") if !has_tls => Err(SetupError::NoAuthority { endpoint: endpoint.to_owned() }),
        Some(scheme @ ("http" | "https")) if plain => Ok(format!("{scheme}://{authority}")),
        _ => Err(refused()),
    }
}

fn tls_config(tls: &EtcdTls) -> Result<TlsConfig, SetupError> {
    let roots = RootCerts::new_with_certs(&certificates(&tls.authority)?);
    let client = match &tls.identity {
        None => None,
        Some((certificate, key)) => {
            let bytes = read_file(key)?;
            let private = PrivateKey::from_pem(&bytes)
                .map_err(|_| SetupError::Pem { path: key.clone(), what: "private key" })?;
            Some(ClientCert::new_with_certs(&certificates(certificate)?, private))
        }
    };
    Ok(TlsConfig::builder().root_certs(roots).client_cert(client).build())
}

fn certificates(path: &PathBuf) -> Result<Vec<Certificate<'static>>, SetupError> {
    let found: Vec<_> = parse_pem(&read_file(path)?)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        Err(SetupError::Pem { path: path.clone(), what: "certificate" })
    } else {
        Ok(found)
    }
}

fn read_file(path: &PathBuf) -> Result<Vec<u8>, SetupError> {
    fs::read(path).map_err(|source| SetupError::Read { path: path.clone(), source })
}
