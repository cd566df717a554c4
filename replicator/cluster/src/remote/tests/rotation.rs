//! Keys that change while questions are asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::{AskError, Refusal};
use super::{ALPHA, BETA, LONG, Limits, Paper, Pki, Question, answerer, asker, echo};

/// Certificates of both nodes are replaced again and again; no question fails and the last certificates are in use at the end.
#[tokio::test]
async fn rotation_under_load_fails_no_request() {
    let pki = Pki::new();
    let (ours, theirs) = (pki.alpha(), pki.beta());
    let alpha = answerer(ours.clone(), Limits::default()).await;
    let beta = Arc::new(asker(&alpha, theirs.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (beta, stop) = (beta.clone(), stop.clone());
        load.spawn(async move {
            let mut asked = 0_u64;
            while !stop.load(Ordering::SeqCst) {
                echo(&beta).await?;
                asked += 1;
            }
            Ok::<u64, AskError>(asked)
        });
    }
    for round in 0..30 {
        let asked = alpha.asked();
        let later = Paper::of(BETA);
        let later = Paper { not_after: later.not_after + Duration::from_secs(round * 60), ..later };
        theirs.replace(pki.credentials(&pki.issue(&later), ALPHA)).unwrap();
        ours.replace(pki.credentials(&pki.issue(&Paper::of(ALPHA)), BETA)).unwrap();
        let goes_on = async {
            while alpha.asked() < asked + 20 && !load.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, goes_on).await.expect("questions are asked all the time");
    }
    stop.store(true, Ordering::SeqCst);
    let mut asked = 0;
    while let Some(result) = load.join_next().await {
        asked += result.unwrap().expect("no question fails");
    }
    assert!(asked >= 600);
    assert!(alpha.server.statistics().accepted > 30, "new keys mean new connections");
    let last = beta.ask(&Question::WhoAmI, LONG).await.unwrap();
    let first = asker(&alpha, pki.beta()).ask(&Question::WhoAmI, LONG).await.unwrap();
    assert_ne!(last, first);
    assert!(alpha.server.statistics().refused.is_empty());
}

/// A replaced node: its certificate is of the cluster's authority and valid, and yet it is not the peer any more.
#[tokio::test]
async fn a_peer_that_was_replaced_is_out_at_once() {
    let pki = Pki::new();
    let ours = pki.alpha();
    let alpha = answerer(ours.clone(), Limits::default()).await;
    let old = asker(&alpha, pki.beta());
    assert_eq!(echo(&old).await.unwrap(), "hello");
    let new_name = "replicator://c1/beta/2";
    ours.replace(pki.credentials(&pki.issue(&Paper::of(ALPHA)), new_name)).unwrap();
    let refused = async {
        loop {
            match echo(&old).await {
                Err(AskError::NotAccepted { .. }) => return,
                // A question may overtake the news inside of the answerer, once.
                other => drop(other),
            }
        }
    };
    tokio::time::timeout(LONG, refused).await.expect("the old peer is refused");
    alpha.wait_refused(Refusal::NotThePeer, 1).await;
    let new = asker(&alpha, pki.keyring(&Paper::of(new_name), ALPHA));
    assert_eq!(echo(&new).await.unwrap(), "hello");
}

#[tokio::test]
async fn keys_that_cannot_be_used_leave_the_old_ones_in_use() {
    let pki = Pki::new();
    let ours = pki.alpha();
    let alpha = answerer(ours.clone(), Limits::default()).await;
    let mut mixed = pki.credentials(&pki.issue(&Paper::of(ALPHA)), BETA);
    mixed.key = pki.issue(&Paper::of(ALPHA)).key;
    assert!(ours.replace(mixed).is_err(), "a key that is not the certificate's");
    assert_eq!(echo(&asker(&alpha, pki.beta())).await.unwrap(), "hello");
}
