//! The service's addresses between two nodes and a client on a LAN of their own. Needs root; what a machine cannot run says so.

mod connections;
mod crash;
mod ground;
mod moving;
mod rivals;
mod watching;
