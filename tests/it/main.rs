//! The tests that need processes: the real agent, a real broker, and an oracle that reads the queues.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::needless_pass_by_value,
    missing_docs,
    unreachable_pub
)]

mod broker_side_test;
mod check_test;
mod cluster_test;
mod completions_test;
mod configuration_test;
mod consumers_test;
mod crash_test;
mod crowd_test;
mod delivery_test;
mod disks_test;
mod drop_ins_test;
mod formats_test;
mod http_test;
mod kept_test;
mod layers_test;
mod login_test;
mod logrotate_test;
mod networks_test;
mod notify_test;
mod numbered_test;
mod oracle_test;
mod outages_test;
mod page_test;
mod peers_test;
mod power_test;
mod preview_test;
mod reload_test;
mod replay_test;
mod rotation_test;
mod settings_test;
mod spool_test;
mod spooling_test;
mod state_test;
mod status_test;
#[allow(
    dead_code,
    reason = "some pieces still wait for the tests that use them"
)]
mod support;
mod support_test;
mod systemd_test;
mod tls_test;
mod top_test;
mod topology_test;
mod treatment_test;
