//! What every arbiter that remembers must do, whatever it is made of.

use std::sync::Arc;
use std::time::Duration;

use replicator_core::ids::{Generation, Term};
use replicator_core::lineage::{GenerationId, Tag};

use crate::arbiter::{
    Acquire, AnyArbiter, Arbiter, ArbiterError, ClusterId, Distrust, Known, ModuleName, NodeId, Outcome,
    Query, Reading, RegisterName, Strength, Value, Verdict, WitnessId,
};

/// Longer than anything takes where nothing is broken: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Node `number` asks for `term`, knowing nothing.
pub(crate) fn ask(cluster: ClusterId, module: &str, term: u64, node: u8) -> Acquire {
    Acquire {
        register: register(cluster, module),
        term: Term(term),
        holder: NodeId([node; 16]),
        generation: GenerationId { number: Generation(term + 100), tag: Tag(u64::from(node)) },
        known: None,
    }
}

pub(crate) fn register(cluster: ClusterId, module: &str) -> RegisterName {
    RegisterName { cluster, module: ModuleName::new(module).unwrap() }
}

/// What the register holds when `ask` with the same numbers has won.
pub(crate) fn held(term: u64, node: u8) -> Value {
    let asked = ask(ClusterId([0; 16]), "x", term, node);
    Value { term: asked.term, holder: asked.holder, generation: asked.generation }
}

pub(crate) async fn acquire(arbiter: &AnyArbiter, asked: &Acquire) -> Outcome {
    arbiter.acquire(asked, PATIENCE).await.unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) async fn read(arbiter: &AnyArbiter, cluster: ClusterId, module: &str) -> Reading {
    let query = Query { register: register(cluster, module), known: None };
    arbiter.read(&query, PATIENCE).await.unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn won(outcome: &Outcome) -> bool {
    matches!(outcome.verdict, Verdict::Won { .. })
}

/// Go through all of it. The cluster must be a new one.
pub(crate) async fn fulfils_the_contract(arbiter: AnyArbiter, cluster: ClusterId) {
    let arbiter = Arc::new(arbiter);
    assert_eq!(arbiter.strength(), Strength::Exclusive);
    grants_by_the_rule(&arbiter, cluster).await;
    tells_what_it_holds(&arbiter, cluster).await;
    keeps_registers_apart(&arbiter, cluster).await;
    records_the_generation(&arbiter, cluster).await;
    is_distrusted_when_it_has_forgotten(&arbiter, cluster).await;
    refuses_impossible_terms(&arbiter, cluster).await;
    two_that_part_have_one_winner(&arbiter, cluster).await;
    many_at_once_have_one_winner(&arbiter, cluster).await;
}

async fn grants_by_the_rule(arbiter: &AnyArbiter, cluster: ClusterId) {
    let steps = [
        // term, node, who holds what afterwards
        (3, 1, (3, 1)),
        (3, 2, (3, 1)),
        (3, 1, (3, 1)),
        (2, 1, (3, 1)),
        (2, 2, (3, 1)),
        (4, 2, (4, 2)),
        (4, 1, (4, 2)),
        (3, 1, (4, 2)),
        (9, 1, (9, 1)),
        (9, 1, (9, 1)),
        (9, 2, (9, 1)),
    ];
    for (term, node, (held_term, held_node)) in steps {
        let outcome = acquire(arbiter, &ask(cluster, "rule", term, node)).await;
        let holds = held(held_term, held_node);
        let wins = (term, node) == (held_term, held_node);
        let verdict = if wins { Verdict::Won { value: holds } } else { Verdict::Lost { current: holds } };
        assert_eq!(outcome.verdict, verdict, "term {term} of node {node}");
        assert_eq!(outcome.known.unwrap().term, holds.term);
        assert_eq!(read(arbiter, cluster, "rule").await.value, Some(holds));
    }
}

async fn tells_what_it_holds(arbiter: &AnyArbiter, cluster: ClusterId) {
    let before = read(arbiter, cluster, "told").await;
    assert_eq!(before.value, None);
    assert_eq!(before.known.unwrap().term, Term(0));
    let asked = Acquire { known: before.known, ..ask(cluster, "told", 1, 1) };
    let outcome = acquire(arbiter, &asked).await;
    assert_eq!(outcome.known.unwrap(), Known { term: Term(1), ..before.known.unwrap() });
    let query = Query { register: register(cluster, "told"), known: outcome.known };
    let after = arbiter.read(&query, PATIENCE).await.unwrap();
    assert_eq!((after.value, after.known), (Some(held(1, 1)), outcome.known));
}

async fn keeps_registers_apart(arbiter: &AnyArbiter, cluster: ClusterId) {
    assert!(won(&acquire(arbiter, &ask(cluster, "apart-1", 5, 1)).await));
    assert!(won(&acquire(arbiter, &ask(cluster, "apart-2", 5, 2)).await));
    assert_eq!(read(arbiter, cluster, "apart-1").await.value, Some(held(5, 1)));
    assert_eq!(read(arbiter, cluster, "apart").await.value, None);
}

async fn records_the_generation(arbiter: &AnyArbiter, cluster: ClusterId) {
    let mut asked = ask(cluster, "generation", 1, 1);
    for (number, tag, kept) in [(5, 1, (5, 1)), (5, 2, (5, 2)), (4, 9, (5, 2)), (6, 3, (6, 3))] {
        asked.generation = GenerationId { number: Generation(number), tag: Tag(tag) };
        let Verdict::Won { value } = acquire(arbiter, &asked).await.verdict else {
            panic!("the holder lost")
        };
        let stands = GenerationId { number: Generation(kept.0), tag: Tag(kept.1) };
        assert_eq!(value.generation, stands);
        assert_eq!(read(arbiter, cluster, "generation").await.value, Some(value));
    }
}

async fn is_distrusted_when_it_has_forgotten(arbiter: &AnyArbiter, cluster: ClusterId) {
    let outcome = acquire(arbiter, &ask(cluster, "memory", 4, 1)).await;
    let witness = outcome.known.unwrap().witness;
    let late = Known { witness, term: Term(5) };
    for module in ["memory", "no-memory"] {
        let found = (module == "memory").then_some(Term(4));
        let asked = Acquire { known: Some(late), ..ask(cluster, module, 6, 1) };
        let distrust = untrustworthy(arbiter.acquire(&asked, PATIENCE).await);
        assert_eq!(distrust, Distrust::Behind { known: Term(5), found });
        let query = Query { register: register(cluster, module), known: Some(late) };
        assert_eq!(untrustworthy(arbiter.read(&query, PATIENCE).await), distrust);
    }
    let other = Known { witness: WitnessId([0xee; 16]), term: Term(1) };
    let asked = Acquire { known: Some(other), ..ask(cluster, "memory", 6, 1) };
    let distrust = untrustworthy(arbiter.acquire(&asked, PATIENCE).await);
    assert_eq!(distrust, Distrust::OtherWitness { expected: other.witness, found: witness });
    // Nothing of this has changed anything.
    assert_eq!(read(arbiter, cluster, "memory").await.value, Some(held(4, 1)));
    assert_eq!(read(arbiter, cluster, "no-memory").await.value, None);
}

pub(crate) fn untrustworthy<T: std::fmt::Debug>(result: Result<T, ArbiterError>) -> Distrust {
    match result {
        Err(ArbiterError::Untrustworthy { why, .. }) => why,
        other => panic!("it was believed: {other:?}"),
    }
}

async fn refuses_impossible_terms(arbiter: &AnyArbiter, cluster: ClusterId) {
    for term in [0, u64::MAX] {
        let asked = Acquire { term: Term(term), ..ask(cluster, "impossible", 1, 1) };
        let result = arbiter.acquire(&asked, PATIENCE).await;
        assert!(matches!(result, Err(ArbiterError::Invalid { .. })), "{result:?}");
    }
    assert_eq!(read(arbiter, cluster, "impossible").await.value, None);
}

/// Both at term T, both ask for T + 1, and so on from what they were told.
async fn two_that_part_have_one_winner(arbiter: &Arc<AnyArbiter>, cluster: ClusterId) {
    for term in 1..=10 {
        let (one, two) = (ask(cluster, "part", term, 1), ask(cluster, "part", term, 2));
        let (one, two) = tokio::join!(acquire(arbiter, &one), acquire(arbiter, &two));
        assert!(won(&one) != won(&two), "term {term}: {one:?}, {two:?}");
        let winner = if won(&one) { held(term, 1) } else { held(term, 2) };
        assert_eq!(read(arbiter, cluster, "part").await.value, Some(winner));
    }
}

async fn many_at_once_have_one_winner(arbiter: &Arc<AnyArbiter>, cluster: ClusterId) {
    for term in 1..=3 {
        let mut tasks = tokio::task::JoinSet::new();
        for node in 1..=24 {
            let (arbiter, asked) = (arbiter.clone(), ask(cluster, "crowd", term, node));
            tasks.spawn(async move { (node, acquire(&arbiter, &asked).await) });
        }
        let outcomes = tasks.join_all().await;
        let winners: Vec<u8> =
            outcomes.iter().filter(|(_, outcome)| won(outcome)).map(|(node, _)| *node).collect();
        let [winner] = winners[..] else { panic!("term {term} was won by {winners:?}") };
        for (node, outcome) in outcomes.iter().filter(|(node, _)| *node != winner) {
            assert_eq!(outcome.verdict, Verdict::Lost { current: held(term, winner) }, "node {node}");
        }
    }
}
