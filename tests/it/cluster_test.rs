//! Three nodes, of which some are away: the agent moves to one that answers, waits for a majority,
//! and every queue has every line, of whatever type it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Consumer;
use crate::support::broker::Cluster;
use crate::support::is_all;
use crate::support::oracle::Ledger;
use crate::support::wait::wait_for;
use crate::support::writers::Load;

const MINUTE: Duration = Duration::from_secs(60);

/// An agent of an exchange `name` and queues of these types, called `name.TYPE`.
struct Shipping {
    agent: Agent,
    path: PathBuf,
    name: &'static str,
    kinds: &'static [&'static str],
    load: Load,
}

impl Shipping {
    fn start(
        directory: &Path,
        cluster: &Cluster,
        name: &'static str,
        kinds: &'static [&'static str],
    ) -> Self {
        let work = directory.join(name);
        fs::create_dir(&work).unwrap();
        let path = work.join("a.log");
        let urls: Vec<String> = cluster.nodes.iter().map(|node| node.url()).collect();
        let config = Config::default()
            .set("broker", &format!("urls = {urls:?}\nexchange = {name:?}"))
            .set("broker", "check_interval = \"200ms\"\nheartbeat = \"2s\"")
            .set(
                "broker",
                "connect_timeout = \"3s\"\nconfirm_timeout = \"3s\"",
            )
            .source("app", &path);
        let config = kinds.iter().fold(config, |config, kind| {
            let queue = format!("[[broker.queue]]\nname = \"{name}.{kind}\"\ntype = {kind:?}");
            config.append(&queue)
        });
        let load = Load::start(&path, name);
        let mut agent = Agent::new(&work, config);
        agent.start();
        Self {
            agent,
            path,
            name,
            kinds,
            load,
        }
    }

    fn wait_marks_move(&self) {
        let confirmed = |status: &Value| status["files"][0]["confirmed"].as_u64();
        let before = self
            .agent
            .wait_for_status("marks", |status| confirmed(status).is_some());
        self.agent.wait_for_status("marks move", |status| {
            confirmed(status) > confirmed(&before)
        });
    }

    fn wait_connected_to(&self, url: &str) {
        let port = url.rsplit_once(':').unwrap().1;
        self.agent.wait_for_status("it has moved", |status| {
            let broker = &status["broker"];
            broker["state"] == "connected" && broker["url"].to_string().contains(port)
        });
    }

    /// Everything is in every queue, and nothing is left to be sent.
    fn assert_complete(mut self, url: &str) {
        let content = self.load.stop();
        self.agent
            .wait_for_status("everything is confirmed", |status| {
                status["files"][0]["confirmed"] == content.len()
            });
        let path = self.path.to_str().unwrap();
        for kind in self.kinds {
            let queue = format!("{}.{kind}", self.name);
            let mut consumer = match *kind {
                "stream" => Consumer::open_stream(url, &queue),
                _ => Consumer::open(url, &queue),
            };
            let mut ledger = Ledger::new();
            ledger.take_until(&mut consumer, 2 * MINUTE, &queue, |ledger| {
                ledger.has_covered(path, content.len())
            });
            ledger.assert_clean();
            ledger.assert_holds_file(path, &content);
        }
        assert_eq!(self.agent.lost_bytes(), 0);
        assert!(self.agent.term().status.success());
    }
}

#[test]
fn whatever_nodes_are_away_every_queue_has_every_line() {
    if !is_all() {
        println!("not tried: tests/run --all starts three nodes");
        return;
    }
    let mut cluster = Cluster::start(3);
    let directory = tempfile::tempdir().unwrap();
    let safe = Shipping::start(directory.path(), &cluster, "safe", &["quorum"]);
    let kinds = &["quorum", "classic", "stream"];
    let mixed = Shipping::start(directory.path(), &cluster, "mixed", kinds);
    let urls: Vec<String> = cluster.nodes.iter().map(|node| node.url()).collect();
    safe.wait_marks_move();
    mixed.wait_marks_move();

    // The queues were made by the first node, which leads them: one without the others' knowledge.
    cluster.nodes[0].kill9();
    safe.wait_connected_to(&urls[1]);
    safe.wait_marks_move();
    // A classic queue is nowhere else, and is waited for.
    mixed
        .agent
        .wait_for_log("exchange and queues are not as they must be", MINUTE);
    cluster.nodes[0].start_again();
    mixed.wait_marks_move();

    // Of three nodes one is left, which takes nothing for quorum queues.
    cluster.nodes[1].kill9();
    cluster.nodes[2].kill9();
    wait_for(
        MINUTE,
        "nothing is confirmed for longer than a check takes",
        || {
            safe.agent.status().is_some_and(|status| {
                status["files"][0]["oldest_unconfirmed_s"].as_f64() > Some(4.0)
            })
        },
    );
    cluster.nodes[1].start_again();
    safe.wait_marks_move();
    cluster.nodes[2].start_again();
    mixed.wait_marks_move();

    // The node that the agent is on is cut off from the others, which stand still.
    cluster.nodes[0].pause();
    cluster.nodes[1].pause();
    safe.agent
        .wait_for_log("no connection to the broker", MINUTE);
    cluster.nodes[0].resume();
    cluster.nodes[1].resume();
    safe.wait_marks_move();
    mixed.wait_marks_move();

    safe.assert_complete(&urls[2]);
    mixed.assert_complete(&urls[2]);
}
