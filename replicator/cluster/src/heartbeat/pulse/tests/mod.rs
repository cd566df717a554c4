//! Two heartbeats and the network between them, in one thread, with time that only the test moves.

mod fuzz;
mod handshake;
mod keys;
mod liveness;
mod paths;
mod properties;
mod speech;
mod table;
mod world;
