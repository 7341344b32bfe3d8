#![doc = include_str!("ARCHITECTURE.md")]

// In the order in which a line flows, then what carries it, then what all of them know.
pub mod amqp;
pub mod batch;
pub mod lane;
pub mod ledger;
pub mod lines;
pub mod publish;
pub mod relay;
pub mod spool;
pub mod state;
pub mod tail;
pub mod treat;

pub mod cli;
pub mod config;
pub mod daemon;
pub mod pipeline;

pub mod model;
pub mod secret;
pub mod status;
pub mod sys;
pub mod telemetry;
pub mod wire;
