//! The channel with a public key infrastructure of its own, over loopback.

mod asking;
mod fuzz;
mod limits;
mod rotation;
mod strangers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Credentials, Keyring, Limits, Options, PeerIdentity, PeerName, Refusal, Remote, Server};

const ALPHA: &str = "replicator://c1/alpha";
const BETA: &str = "replicator://c1/beta";
/// Long enough for every machine; nothing is measured with it.
const LONG: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(rename_all = "kebab-case")]
enum Question {
    Echo(String),
    WhoAmI,
    Big(usize),
    Wait,
    Defect,
}

/// An authority of a cluster.
struct Pki(CertifiedIssuer<'static, KeyPair>);

/// What a certificate says.
#[derive(Clone)]
struct Paper {
    uris: Vec<&'static str>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    purposes: Vec<ExtendedKeyUsagePurpose>,
}

impl Paper {
    fn of(uri: &'static str) -> Paper {
        let now = OffsetDateTime::now_utc();
        Paper {
            uris: vec![uri],
            not_before: now - Duration::from_secs(3600),
            not_after: now + Duration::from_secs(86_400),
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.not_before = self.not_before;
        params.not_after = self.not_after;
        params.extended_key_usages = self.purposes.clone();
        params.subject_alt_names =
            self.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params
    }

    fn self_signed(&self) -> Id {
        let key = KeyPair::generate().unwrap();
        let certificate = self.params().self_signed(&key).unwrap();
        Id {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }
}

/// A certificate and its key.
struct Id {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Pki {
    fn new() -> Pki {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Pki(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, paper: &Paper) -> Id {
        let key = KeyPair::generate().unwrap();
        let certificate = paper.params().signed_by(&key, &self.0).unwrap();
        Id {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }

    /// Credentials of `id` that accept the bearer of `peer` from this authority.
    fn credentials(&self, id: &Id, peer: &str) -> Credentials {
        Credentials {
            authorities: vec![self.0.der().clone()],
            certificate: id.certificate.clone(),
            key: id.key.clone_key(),
            peer: PeerName { name: peer.rsplit('/').next().unwrap().to_owned(), uri: peer.to_owned() },
        }
    }

    fn keyring(&self, paper: &Paper, peer: &str) -> Keyring {
        Keyring::new(self.credentials(&self.issue(paper), peer)).unwrap()
    }

    fn alpha(&self) -> Keyring {
        self.keyring(&Paper::of(ALPHA), BETA)
    }

    fn beta(&self) -> Keyring {
        self.keyring(&Paper::of(BETA), ALPHA)
    }
}

/// A server that counts the requests it was asked.
struct Answerer {
    server: Server,
    asked: Arc<AtomicU64>,
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn answerer(keyring: Keyring, limits: Limits) -> Answerer {
    answerer_at(anywhere(), keyring, limits).await
}

async fn answerer_at(address: SocketAddr, keyring: Keyring, limits: Limits) -> Answerer {
    let asked = Arc::new(AtomicU64::new(0));
    let counter = asked.clone();
    let handler = move |peer: PeerIdentity, question: Question| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            match question {
                Question::Echo(text) => text,
                Question::WhoAmI => format!("{} {:?}", peer.name, peer.not_after),
                Question::Big(bytes) => "x".repeat(bytes),
                Question::Wait => std::future::pending().await,
                Question::Defect => panic!("a defect that this test wants"),
            }
        }
    };
    Answerer { server: Server::bind(address, keyring, limits, handler).await.unwrap(), asked }
}

impl Answerer {
    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn refused(&self, refusal: Refusal) -> u64 {
        let statistics = self.server.statistics();
        statistics.refused.iter().find(|(kind, _)| *kind == refusal).map_or(0, |(_, count)| *count)
    }

    /// Wait until so many were refused for this reason.
    async fn wait_refused(&self, refusal: Refusal, count: u64) {
        let seen = async {
            while self.refused(refusal) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(LONG, seen).await.is_err() {
            panic!("{refusal:?} was not counted {count} times: {:?}", self.server.statistics());
        }
    }
}

fn asker(answerer: &Answerer, keyring: Keyring) -> Remote<Question, String> {
    Remote::new(answerer.server.address(), keyring, Options::default())
}

async fn echo(remote: &Remote<Question, String>) -> Result<String, super::AskError> {
    remote.ask(&Question::Echo("hello".into()), LONG).await
}
