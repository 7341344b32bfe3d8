//! What integration tests stand on. Nothing here uses fantail's own code: it knows the agent by its
//! command line, its files and its messages only.

pub mod agent;
pub mod amqp;
pub mod broker;
pub mod certificates;
pub mod cut;
pub mod debian;
pub mod fault;
pub mod gate;
pub mod http;
pub mod json;
pub mod leash;
pub mod logrotate;
pub mod machine;
pub mod made;
pub mod message;
pub mod network;
pub mod numbered;
pub mod oracle;
pub mod ports;
pub mod process;
pub mod random;
pub mod readme;
pub mod trial;
pub mod wait;
pub mod writers;

/// Whether the longer sweeps are wanted too (`tests/run --all`).
pub fn is_all() -> bool {
    std::env::var_os("FANTAIL_TEST_ALL").is_some()
}
