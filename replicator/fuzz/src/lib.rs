//! What the fuzz tests of all packages share: how many inputs there are, what they are made of, and what they may cost.
//!
//! A fuzz test gives a part that listens to others inputs that nobody sends who means well. Input number n is made of n alone, so
//! that the one which fails can be given again. `cargo xtask fuzz` runs all of these tests with many inputs, `cargo test` with
//! few. Only tests depend on this package.

mod allocated;
mod random;

pub use allocated::{Counting, peak_of};
pub use random::Random;

/// How many inputs each test takes.
pub const INPUTS: &str = "REPLICATOR_FUZZ_INPUTS";
/// The number of the first one.
pub const FIRST: &str = "REPLICATOR_FUZZ_FIRST";
/// What a plain `cargo test` takes: a second or two for each test.
pub const INPUTS_IN_SHORT: u64 = 20_000;
/// The least that a test takes of which each input costs much.
const LEAST: u64 = 20;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// How many inputs are wanted.
#[must_use]
pub fn inputs() -> u64 {
    variable(INPUTS).unwrap_or(INPUTS_IN_SHORT)
}

/// Say that a test held, in the words that `cargo xtask fuzz` reads.
pub fn report(name: &str, inputs: u64) {
    println!("fuzz: {name}: {inputs} inputs");
}

/// How much of the wanted number a test takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// All.
    Whole,
    /// One of so many, because each needs a socket, a file or a handshake.
    OneOf(u64),
    /// All; so many of them are one run, in which a state is built up.
    Runs(u64),
}

/// Give a test its inputs, one run after the other.
///
/// # Panics
/// When `one` does; the number of the run and the command that repeats it are printed.
pub fn each(name: &str, share: Share, mut one: impl FnMut(&mut Random)) {
    let wanted = inputs();
    let (runs, of_each) = match share {
        Share::Whole => (wanted, 1),
        Share::OneOf(many) => ((wanted / many.max(1)).max(LEAST.min(wanted)), 1),
        Share::Runs(length) => (wanted.div_ceil(length.max(1)), length),
    };
    let first = variable(FIRST).unwrap_or(0);
    let mut running = Running { name, number: first };
    for number in first..first.saturating_add(runs) {
        running.number = number;
        one(&mut Random::new(number));
    }
    std::mem::forget(running);
    report(name, runs * of_each);
}

/// Tells which input it was when a test panics.
struct Running<'a> {
    name: &'a str,
    number: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Running { name, number } = self;
        println!("fuzz: {name}: input {number} fails; again: {FIRST}={number} {INPUTS}=1 cargo test ...");
    }
}
