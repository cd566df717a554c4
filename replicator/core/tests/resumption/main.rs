//! Sessions that go on where the last one ended, and those that must not: each case by itself, driven against one node. The
//! simulation finds the others.

mod driven;
#[path = "../record/mod.rs"]
mod record;
mod recovered;
mod resumed;
mod secondary;
