//! Heartbeats over real sockets: on the loopback interface, between two network namespaces, and of a process that is stopped.
//!
//! What needs root or a tool that is not there says "not run".

#[path = "heartbeat/load.rs"]
mod load;
#[path = "heartbeat/loopback.rs"]
mod loopback;
#[path = "heartbeat/namespaces.rs"]
mod namespaces;
#[path = "heartbeat/node.rs"]
mod node;
#[path = "heartbeat/paused.rs"]
mod paused;
