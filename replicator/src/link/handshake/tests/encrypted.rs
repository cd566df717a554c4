//! Inside TLS: the expected peer gets in, with the certificates of the moment. A stranger learns nothing and changes nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use rustls::{CertificateError, Error};

use super::super::super::papers::{ALPHA, BETA, Papers, TODAY};
use super::super::super::records::Records;
use super::super::error::HandshakeError;
use super::super::{Established, Identity};
use super::{TIMEOUTS, acceptor, dial, meet, next, primary, reason, say, secondary, wide};
use crate::config::{ConfigError, TlsFiles};
use crate::uring::Pool;

/// The dialer, which is beta.
fn dialer(files: TlsFiles) -> Identity {
    Identity { tls: Some(files), ..secondary() }
}

/// The acceptor, which is alpha.
fn answering(files: TlsFiles) -> Identity {
    Identity { tls: Some(files), ..primary() }
}

fn assert_both(results: (Result<Established, HandshakeError>, Result<Established, HandshakeError>)) {
    let (dialed, answered) = (results.0.expect("a session"), results.1.expect("a session"));
    assert!(dialed.authenticated && answered.authenticated);
    assert_eq!((dialed.peer.node.as_slice(), answered.peer.node.as_slice()), (&b"a"[..], &b"bb"[..]));
    let (mut near, mut far) = (dialed.records.expect("records"), answered.records.expect("records"));
    // Neither side has taken a byte of the session's: the first one sent is the first one opened.
    say_first(&mut near, &mut far);
    say_first(&mut far, &mut near);
}

fn say_first(from: &mut Records, to: &mut Records) {
    let sealed = from.seal(&[b"first".to_vec().into()], &Pool::default()).expect("sealed");
    let (mut bytes, mut content) = (sealed[0].to_vec(), Vec::new());
    let opened = to.open(&mut bytes, &mut |part| {
        content.extend_from_slice(part);
        Ok(())
    });
    assert_eq!((opened.expect("opened"), content.as_slice()), (bytes.len(), &b"first"[..]));
}

#[test]
fn members_meet_inside_tls() {
    let papers = Papers::new();
    assert_both(meet(&dialer(papers.beta()), answering(papers.alpha())));
}

#[test]
fn a_certificate_is_proof_without_a_key_and_a_wrong_key_is_refused_with_one() {
    let papers = Papers::new();
    let open = |mut identity: Identity| {
        identity.key = super::ClusterKey::from_cluster_name(&identity.hello.cluster);
        identity
    };
    assert_both(meet(&open(dialer(papers.beta())), open(answering(papers.alpha()))));
    let (dialed, answered) = meet(&open(dialer(papers.beta())), answering(papers.alpha()));
    assert_eq!(reason(dialed), super::RefusalReason::Proof);
    assert_eq!(reason(answered), super::RefusalReason::Proof);
}

/// How it ends for an acceptor, alpha, that a stranger dials with these files; the stranger is told, or cut off.
fn refused(stranger: TlsFiles, alpha: TlsFiles) -> Error {
    let (dialed, answered) = meet(&dialer(stranger), answering(alpha));
    let dialed = dialed.expect_err("the acceptor refuses");
    let told = matches!(
        &dialed,
        HandshakeError::Tls(Error::AlertReceived(_))
            | HandshakeError::Closed { .. }
            | HandshakeError::System { .. }
    );
    assert!(told, "{dialed}");
    match answered {
        Err(HandshakeError::Tls(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// How it ends for a dialer, beta, that meets a stranger at alpha's address.
fn not_met(beta: TlsFiles, stranger: TlsFiles) -> Error {
    let (dialed, answered) = meet(&dialer(beta), answering(stranger));
    let answered = answered.expect_err("the dialer refuses");
    assert!(matches!(&answered, HandshakeError::Tls(Error::AlertReceived(_))), "{answered}");
    match dialed {
        Err(HandshakeError::Tls(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn is_unknown_issuer(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)
    )
}

#[test]
fn another_authority_is_refused_on_both_sides() {
    let (papers, other) = (Papers::new(), Papers::new());
    // It knows this cluster's authority, and takes alpha for its peer.
    let borrowed = TlsFiles { authority: papers.alpha().authority, ..other.beta() };
    assert!(is_unknown_issuer(&refused(borrowed, papers.alpha())));
    assert!(is_unknown_issuer(&not_met(papers.beta(), other.alpha())));
}

#[test]
fn another_node_of_the_cluster_is_refused_on_both_sides() {
    let papers = Papers::new();
    for uri in ["replicator://c1/gamma", "replicator://c2/beta", "replicator://c1/beta2"] {
        let error = refused(papers.files(uri, ALPHA, TODAY), papers.alpha());
        assert!(matches!(error, Error::InvalidCertificate(CertificateError::Other(_))), "{uri}: {error}");
    }
    let error = not_met(papers.beta(), papers.files("replicator://c1/gamma", BETA, TODAY));
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::Other(_))), "{error}");
}

#[test]
fn a_copy_of_this_node_is_not_its_peer() {
    let papers = Papers::new();
    // Alpha's own files on another machine, and an alpha that would take itself for its peer.
    let (dialed, answered) = meet(&dialer(papers.alpha()), answering(papers.alpha()));
    let refused =
        matches!(&dialed, Err(HandshakeError::Tls(Error::InvalidCertificate(CertificateError::Other(_)))));
    assert!(refused, "{dialed:?}");
    assert!(matches!(answered, Err(HandshakeError::Tls(Error::AlertReceived(_)))), "{answered:?}");
    let own = papers.files(ALPHA, ALPHA, TODAY).configurations(b"");
    assert!(matches!(own, Err(ConfigError::OwnIdentity { .. })), "{own:?}");
}

#[test]
fn a_certificate_out_of_its_time_is_refused_on_both_sides() {
    for valid in [(-7200, -3600), (3600, 7200)] {
        let papers = Papers::new();
        let is_out_of_time = |error: &Error| {
            use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
            matches!(
                error,
                Error::InvalidCertificate(
                    Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
                )
            )
        };
        assert!(is_out_of_time(&refused(papers.files(BETA, ALPHA, valid), papers.alpha())), "{valid:?}");
        assert!(is_out_of_time(&not_met(papers.beta(), papers.files(ALPHA, BETA, valid))), "{valid:?}");
    }
}

#[test]
fn a_link_is_encrypted_on_both_nodes_or_on_none() {
    let papers = Papers::new();
    let (dialed, answered) = meet(&secondary(), answering(papers.alpha()));
    let Err(HandshakeError::RefusedByPeer(refusal)) = dialed else { panic!("{dialed:?}") };
    assert!(refusal.text.contains("link.encryption"), "{}", refusal.text);
    assert!(matches!(answered, Err(HandshakeError::NotEncrypted)), "{answered:?}");
    let (dialed, answered) = meet(&dialer(papers.beta()), primary());
    assert!(dialed.is_err());
    assert!(matches!(answered, Err(HandshakeError::Encrypted)), "{answered:?}");
}

#[test]
fn a_connection_for_another_protocol_is_refused() {
    let papers = Papers::new();
    let (acceptor, outcomes) = acceptor(answering(papers.alpha()));
    for protocol in [&b"replicator-control/1"[..], b""] {
        let mut client = (*papers.beta().configurations(b"").expect("credentials").client).clone();
        client.alpn_protocols = if protocol.is_empty() { Vec::new() } else { vec![protocol.to_vec()] };
        let stream = TcpStream::connect(acceptor.address()).expect("connected");
        let tls = rustls::client::UnbufferedClientConnection::new(
            client.into(),
            replicator_cluster::tls::any_name(),
        );
        let records = Records::client(tls.expect("a client"));
        let mut line = super::super::line::Line::new(&stream, super::LIMIT);
        assert!(line.encrypt(records).is_err());
        let refused = next(&outcomes).expect_err("no session");
        let named = matches!(refused, HandshakeError::Tls(Error::NoApplicationProtocol));
        assert!(
            if protocol.is_empty() { matches!(refused, HandshakeError::OtherProtocol) } else { named },
            "{refused}"
        );
    }
}

/// A TLS 1.2 ClientHello (RFC 5246, 7.4.1.2): ECDHE-ECDSA with AES-128-GCM over P-256, and no `supported_versions`.
fn hello_of_tls_1_2() -> Vec<u8> {
    let mut extensions = Vec::new();
    extensions.extend_from_slice(&[0, 10, 0, 4, 0, 2, 0, 23]); // supported_groups: secp256r1
    extensions.extend_from_slice(&[0, 11, 0, 2, 1, 0]); // ec_point_formats: uncompressed
    extensions.extend_from_slice(&[0, 13, 0, 4, 0, 2, 4, 3]); // signature_algorithms: ecdsa_secp256r1_sha256
    extensions.extend_from_slice(&[0, 23, 0, 0]); // extended_master_secret
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]); // random
    body.extend_from_slice(&[0, 0, 2, 0xc0, 0x2b, 1, 0]); // no session, one cipher suite, no compression
    body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
    body.extend_from_slice(&extensions);
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&(body.len() as u16 + 4).to_be_bytes());
    record.extend_from_slice(&[1, 0]);
    record.extend_from_slice(&(body.len() as u16).to_be_bytes());
    record.extend_from_slice(&body);
    record
}

#[test]
fn strangers_are_refused_whatever_they_say_and_a_member_gets_in_after_them() {
    let papers = Papers::new();
    let (acceptor, outcomes) = acceptor(answering(papers.alpha()));
    let error = say(&acceptor, &outcomes, &hello_of_tls_1_2());
    assert!(matches!(error, HandshakeError::Tls(Error::PeerIncompatible(_))), "{error}");
    let hello = hello_of_tls_1_2();
    for cut in 0..hello.len() {
        let error = say(&acceptor, &outcomes, &hello[..cut]);
        assert!(matches!(error, HandshakeError::Closed { .. }), "cut at {cut}: {error}");
    }
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: example\r\n\r\n"[..],
        &[0; 1000],
        &[22, 3, 1, 0xff, 0xff, 0],
        &[23, 3, 3, 0, 3, 1, 2, 3],
        &[21, 3, 3, 0, 2, 2, 40],
        &[22, 3, 3, 0, 4, 1, 0, 0, 0],
    ] {
        let error = say(&acceptor, &outcomes, garbage);
        assert!(
            matches!(error, HandshakeError::NotEncrypted | HandshakeError::Tls(_)),
            "{garbage:?}: {error}"
        );
    }
    assert_eq!(acceptor.statistics().established, 0);
    dial(&acceptor.address().to_string(), None, &dialer(papers.beta()), &TIMEOUTS).expect("a member gets in");
    next(&outcomes).expect("a session");
}

#[test]
fn a_member_that_only_listens_learns_nothing_before_it_knows_its_peer() {
    let papers = Papers::new();
    let (acceptor, outcomes) = acceptor(answering(papers.alpha()));
    let mut stream = TcpStream::connect(acceptor.address()).expect("connected");
    stream.write_all(&hello_of_tls_1_2()).expect("written");
    assert!(next(&outcomes).is_err());
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an end");
    // A fatal alert (RFC 8446, 6.2): protocol_version is 70.
    assert_eq!((answer.first(), answer.get(5..)), (Some(&21), Some([2, 70].as_slice())), "{answer:?}");
}

#[test]
fn certificates_are_read_for_each_connection_and_a_session_goes_on_without_them() {
    let (papers, replacement) = (Papers::new(), Papers::new());
    let (alpha, beta) = (papers.alpha(), papers.beta());
    let (acceptor, outcomes) = super::acceptor_with(answering(alpha.clone()), None, TIMEOUTS, wide());
    let address = acceptor.address().to_string();
    let first = dial(&address, None, &dialer(beta.clone()), &TIMEOUTS).expect("a session");
    let answered = next(&outcomes).expect("a session");
    // New certificates of the same authority, and then of another one, in the same places.
    papers.alpha();
    papers.beta();
    assert_both((dial(&address, None, &dialer(beta.clone()), &TIMEOUTS), next(&outcomes)));
    let put = |from: &TlsFiles, to: &TlsFiles| {
        for (from, to) in [(&from.authority, &to.authority), (&from.certificate, &to.certificate)] {
            std::fs::copy(from, to).expect("copied");
        }
    };
    put(&replacement.beta(), &TlsFiles { authority: papers.directory().join("unused"), ..beta.clone() });
    assert!(
        dial(&address, None, &dialer(beta.clone()), &TIMEOUTS).is_err(),
        "only one node has the new ones"
    );
    assert!(next(&outcomes).is_err());
    put(&replacement.alpha(), &alpha);
    assert_both((dial(&address, None, &dialer(beta.clone()), &TIMEOUTS), next(&outcomes)));
    // Files that cannot be used end that attempt alone.
    std::fs::write(&beta.certificate, "nothing").expect("written");
    let error = dial(&address, None, &dialer(beta.clone()), &TIMEOUTS).expect_err("no certificate");
    assert!(is_content(&error, &beta.certificate), "{error}");
    assert!(matches!(next(&outcomes), Err(HandshakeError::Closed { .. })));
    // The session of before knows nothing of all that.
    assert_both((Ok(first), Ok(answered)));
}

fn is_content(error: &HandshakeError, expected: &Path) -> bool {
    let HandshakeError::Credentials(error) = error else { return false };
    matches!(&**error, ConfigError::TlsContent { path, .. } if path == expected)
}
