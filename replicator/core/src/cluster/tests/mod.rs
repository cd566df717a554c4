//! Tests of the controller.

mod commands;
mod decisions;
mod election;
mod lab;
mod posture;
mod report;
mod standby;
