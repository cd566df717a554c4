//! The node's side of the witness protocol ([`super::protocol`]).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::attempts::{ATTEMPT, Bounds, Fault, persist};
use super::error::{ArbiterError, SetupError};
use super::key::WitnessKey;
use super::known::{Distrust, Known, learn, trust};
use super::protocol::{
    ANSWER_BYTES, Answer, CHALLENGE_BYTES, Operation, REQUEST_BYTES, Request, Status, is_challenge,
};
use super::register::{RegisterName, Value};
use super::{Acquire, Arbiter, Outcome, Query, Reading, Strength, Verdict};

/// Asks one witness.
#[derive(Debug)]
pub struct WitnessArbiter {
    addresses: Vec<SocketAddr>,
    key: WitnessKey,
    attempt: Duration,
}

impl WitnessArbiter {
    /// Ask the witness that has `key`. It has one address or several, which are tried in turn.
    ///
    /// # Errors
    /// [`SetupError::Nobody`].
    pub fn new(addresses: Vec<SocketAddr>, key: WitnessKey) -> Result<WitnessArbiter, SetupError> {
        if addresses.is_empty() {
            return Err(SetupError::Nobody { arbiter: "witness", what: "address" });
        }
        Ok(WitnessArbiter { addresses, key, attempt: ATTEMPT })
    }

    /// With another bound for one attempt.
    #[must_use]
    pub fn with_attempt(mut self, attempt: Duration) -> WitnessArbiter {
        self.attempt = attempt;
        self
    }

    /// Ask until an answer is proven to be the witness's.
    async fn ask(
        &self,
        operation: Operation,
        register: &RegisterName,
        known: Option<Known>,
        within: Duration,
    ) -> Result<(Status, Option<Value>, Known), ArbiterError> {
        if register.cluster != self.key.cluster {
            return Err(ArbiterError::Invalid {
                what: "a register of another cluster than its key is for",
                remedy: "give this cluster the key file that the witness wrote for it",
            });
        }
        if let Err(why) = self.trust_before(known) {
            return Err(self.untrustworthy(why));
        }
        let bounds = Bounds { within, attempt: self.attempt, places: self.addresses.len() };
        let name = self.name();
        let answer = persist(&name, bounds, |place, _| {
            let address = self.addresses.get(place).copied();
            self.converse(address, operation, register, known)
        })
        .await?;
        self.believe(&answer, known)?;
        Ok((answer.status, answer.value, learn(known, answer.witness, answer.value)))
    }

    /// The key file names the witness; what the node remembers must be of the same one.
    fn trust_before(&self, known: Option<Known>) -> Result<(), Distrust> {
        match known {
            Some(known) if known.witness != self.key.witness => {
                Err(Distrust::OtherWitness { expected: known.witness, found: self.key.witness })
            }
            _ => Ok(()),
        }
    }

    async fn converse(
        &self,
        address: Option<SocketAddr>,
        operation: Operation,
        register: &RegisterName,
        known: Option<Known>,
    ) -> Result<Answer, Fault> {
        let Some(address) = address else { return Err(Fault::Passing("no such address".into())) };
        let failed = |step: &'static str| {
            move |error: std::io::Error| Fault::Passing(format!("{address}: cannot {step}: {error}"))
        };
        let mut stream = TcpStream::connect(address).await.map_err(failed("connect"))?;
        stream.set_nodelay(true).map_err(failed("set up the connection"))?;
        let mut challenge = [0; CHALLENGE_BYTES];
        stream.read_exact(&mut challenge).await.map_err(failed("read the challenge"))?;
        if !is_challenge(&challenge) {
            let why = format!("what listens at {address} is not a witness of this version");
            return Err(Fault::Passing(why));
        }
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce)
            .map_err(|error| Fault::Passing(format!("the system has no random bytes: {error}")))?;
        let request = Request {
            operation,
            register: register.clone(),
            witness: self.key.witness,
            known: known.map_or_else(Default::default, |known| known.term),
            nonce,
        };
        let request: [u8; REQUEST_BYTES] = request.encode(&self.key, &challenge);
        stream.write_all(&request).await.map_err(failed("send the request"))?;
        let mut answer = [0; ANSWER_BYTES];
        stream.read_exact(&mut answer).await.map_err(|error| {
            let hint = "a witness that does not know the cluster or its key closes without a word";
            Fault::Passing(format!("{address}: cannot read the answer: {error} ({hint})"))
        })?;
        Answer::decode(&answer, &self.key, &challenge, &request).ok_or_else(|| {
            Fault::Passing(format!("what {address} answered is not proven to be the witness's"))
        })
    }

    /// Whether a proven answer can be right, whatever it says.
    fn believe(&self, answer: &Answer, known: Option<Known>) -> Result<(), ArbiterError> {
        let stored = answer.value.map(|value| value.term);
        let distrust = match answer.status {
            Status::OtherWitness => {
                Some(Distrust::OtherWitness { expected: self.key.witness, found: answer.witness })
            }
            _ if answer.witness != self.key.witness => {
                Some(Distrust::OtherWitness { expected: self.key.witness, found: answer.witness })
            }
            Status::Behind => {
                let known = known.map_or_else(Default::default, |known| known.term);
                Some(Distrust::Behind { known, found: stored })
            }
            Status::Granted | Status::Refused | Status::Holds => trust(known, answer.witness, stored).err(),
            Status::Unreadable | Status::NotDurable | Status::Full | Status::Senseless => None,
        };
        if let Some(why) = distrust {
            return Err(self.untrustworthy(why));
        }
        let why = match answer.status {
            Status::Unreadable => {
                "the register's file there is unreadable; see the witness's log, then reset the register to the highest term any node shows"
            }
            Status::NotDurable => {
                "the register's value cannot be made durable there; see the witness's log and its disk, then restart it"
            }
            Status::Full => "the cluster has as many registers there as the witness allows; raise its limit",
            Status::Senseless => "the request makes no sense to the witness; are both of the same version?",
            _ => return Ok(()),
        };
        Err(ArbiterError::Incapable { arbiter: self.name(), why: why.to_owned() })
    }

    fn untrustworthy(&self, why: Distrust) -> ArbiterError {
        ArbiterError::Untrustworthy { arbiter: self.name(), why }
    }
}

impl Arbiter for WitnessArbiter {
    async fn acquire(&self, request: &Acquire, within: Duration) -> Result<Outcome, ArbiterError> {
        let asked = request.checked()?;
        let operation = Operation::Acquire(asked);
        let (status, value, known) = self.ask(operation, &request.register, request.known, within).await?;
        let verdict = Verdict::of(status == Status::Granted, value, asked);
        let fits = matches!(status, Status::Granted | Status::Refused);
        match verdict.filter(|_| fits) {
            Some(verdict) => Ok(Outcome { verdict, known: Some(known) }),
            None => Err(self.untrustworthy(Distrust::Contradiction)),
        }
    }

    async fn read(&self, query: &Query, within: Duration) -> Result<Reading, ArbiterError> {
        match self.ask(Operation::Read, &query.register, query.known, within).await? {
            (Status::Holds, value, known) => Ok(Reading { value, known: Some(known) }),
            _ => Err(self.untrustworthy(Distrust::Contradiction)),
        }
    }

    fn strength(&self) -> Strength {
        Strength::Exclusive
    }

    fn name(&self) -> String {
        match self.addresses.as_slice() {
            [one] => format!("the witness at {one}"),
            [first, ..] => format!("the witness at {first} and other addresses"),
            [] => "the witness".to_owned(),
        }
    }
}
