//! Owns private RabbitMQ nodes: one `Broker` is one node that shares nothing with any other.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::amqp::Amqp;
use super::certificates::{Authority, Issued};
use super::debian::{self, Root};
use super::leash::Leash;
use super::ports::free_port;
use super::process::Process;
use super::wait::{wait_for, wait_for_some};

/// RabbitMQ's own scripts: Debian's wrappers of the same names change the user and the environment.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

/// A first start takes 5 s on two idle cores; tests share them with each other.
const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);

/// An idle node must not spin, and two schedulers are what a small machine has.
const ERLANG: &str = "-kernel inet_dist_use_interface {127,0,0,1} \
                      +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none";

/// Of RabbitMQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Debian 12's, the oldest that fantail supports, and the one that is installed.
    V3_10,
    /// Debian 13's, in a root file system of its own.
    V4_0,
}

/// A node of its own, and the directory with all its data. Dropping it leaves nothing behind.
pub struct Broker {
    running: Option<Node>,
    /// Where the node's programs are, when they are not this system's.
    root: Option<Root>,
    amqp_port: u16,
    dist_port: u16,
    epmd_port: u16,
    /// Whether the port mapper is the node's own, or of a cluster.
    maps_itself: bool,
    cookie: String,
    /// Declared before the directory: processes end first.
    leash: Leash,
    directory: TempDir,
}

/// The processes of a node that runs.
struct Node {
    server: Process,
    /// The Erlang port mapper, through which `rabbitmqctl` finds the server.
    _mapper: Option<Process>,
}

/// Nodes that know each other. The port mapper outlives each of them.
pub struct Cluster {
    pub nodes: Vec<Broker>,
    _mapper: Process,
    _leash: Leash,
}

impl Cluster {
    /// So many nodes of RabbitMQ 3.10 that answer.
    pub fn start(count: usize) -> Self {
        let mut nodes: Vec<Broker> = (0..count).map(|_| Broker::absent()).collect();
        let (port, cookie) = (nodes[0].epmd_port, nodes[0].cookie.clone());
        for node in &mut nodes {
            (node.epmd_port, node.maps_itself) = (port, false);
            node.share_cookie(&cookie);
        }
        let mapper = Process::spawn("epmd", &mut nodes[0].mapper_command());
        let mut leash = Leash::on_processes();
        leash.hold(&[mapper.id()]);
        wait_for(START, "epmd listens", || listens(port));
        nodes.iter_mut().for_each(Broker::start_again);
        let first = nodes[0].node_name();
        for node in &nodes[1..] {
            node.ctl(&["stop_app"]);
            node.ctl(&["join_cluster", &first]);
            node.ctl(&["start_app"]);
        }
        Self {
            nodes,
            _mapper: mapper,
            _leash: leash,
        }
    }
}

impl Broker {
    /// A node of RabbitMQ 3.10 for tests that do nothing to it as a whole, and keep to exchanges,
    /// queues and users of their own names. It ends with the test process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A new node that answers, of RabbitMQ 3.10.
    pub fn start() -> Self {
        Self::start_version(Version::V3_10)
    }

    pub fn start_version(version: Version) -> Self {
        let mut broker = Self::absent_version(version);
        broker.start_again();
        broker
    }

    /// A place for a node: its address is known, and nobody listens there until `start_again`.
    pub fn absent() -> Self {
        Self::absent_version(Version::V3_10)
    }

    fn absent_version(version: Version) -> Self {
        let root = match version {
            Version::V3_10 => None,
            Version::V4_0 => Some(Root::with("trixie", "rabbitmq-server")),
        };
        let directory = tempfile::Builder::new()
            .prefix("fantail-broker-")
            .tempdir()
            .unwrap();
        let leash = Leash::on_processes_and(directory.path());
        let mut broker = Self {
            running: None,
            root,
            amqp_port: free_port(),
            dist_port: free_port(),
            epmd_port: free_port(),
            maps_itself: true,
            cookie: String::new(),
            leash,
            directory,
        };
        broker.write_configuration();
        broker
    }

    /// Where it listens, or will.
    pub fn port(&self) -> u16 {
        self.amqp_port
    }

    /// `amqp://` address of the virtual host `/` for guest.
    pub fn url(&self) -> String {
        self.url_with("guest", "guest", "/")
    }

    pub fn url_with(&self, user: &str, password: &str, vhost: &str) -> String {
        let vhost = vhost.replace('/', "%2f");
        format!(
            "amqp://{user}:{password}@127.0.0.1:{}/{vhost}",
            self.amqp_port
        )
    }

    /// The port of `url`.
    pub fn amqp_port(&self) -> u16 {
        self.amqp_port
    }

    /// A new connection to it.
    pub fn amqp(&self) -> Amqp {
        Amqp::connect(&self.url())
    }

    /// Starts the stopped, killed or absent node with the data and the port it had, and returns
    /// when it answers an AMQP handshake.
    pub fn start_again(&mut self) {
        assert!(self.running.is_none(), "the broker runs already");
        let mapper = self.maps_itself.then(|| {
            let mapper = Process::spawn("epmd", &mut self.mapper_command());
            self.leash.hold(&[mapper.id()]);
            let epmd_port = self.epmd_port;
            wait_for(START, "epmd listens", || listens(epmd_port));
            mapper
        });

        let server = Process::spawn("rabbitmq-server", &mut self.server_command());
        let processes: Vec<u32> = mapper.iter().chain([&server]).map(Process::id).collect();
        self.leash.hold(&processes);
        let node = self.running.insert(Node {
            server,
            _mapper: mapper,
        });

        let (amqp_port, log) = (self.amqp_port, self.directory.path().join("out"));
        wait_for(START, "the broker listens", || {
            if let Some(status) = node.server.ended() {
                panic!("rabbitmq-server ended with {status}:\n{}", end_of(&log));
            }
            listens(amqp_port)
        });
        let url = self.url();
        wait_for_some(START, "the broker answers", || Amqp::try_connect(&url).ok());
    }

    /// Graceful: the node closes its connections and leaves. Does nothing when it is not running.
    pub fn stop(&mut self) {
        if let Some(mut node) = self.running.take() {
            node.server.signal(Signal::TERM);
            node.server.wait(STOP);
        }
        self.leash.hold(&[]);
    }

    /// A crash: SIGKILL, nothing flushed.
    pub fn kill9(&mut self) {
        self.running.take();
        self.leash.hold(&[]);
    }

    /// The node keeps its connections and answers nothing, until `resume`.
    pub fn pause(&self) {
        self.node().server.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.node().server.signal(Signal::CONT);
    }

    /// `rabbitmqctl` on this node, its output. It takes a second or more: prefer AMQP.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = self
            .environment(&mut self.script("rabbitmqctl"))
            .arg("--quiet")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {}\n{out}{err}",
            output.status
        );
        out
    }

    /// Listens for TLS, until the node ends, on a new port for each of `listeners`: its certificate,
    /// the authority of its clients', and whether it refuses those that show none.
    pub fn listen_for_tls(&self, listeners: &[(&Issued, &Authority, bool)]) -> Vec<u16> {
        let listen = |(own, clients, required): &(&Issued, &Authority, bool)| {
            let port = free_port();
            let bring = |path: &Path, name: &str| {
                let name = format!("{port}-{name}");
                fs::copy(path, self.path(&name)).unwrap();
                self.seen(&name)
            };
            let expression = format!(
                "ok = rabbit_networking:start_ssl_listener({{\"127.0.0.1\", {port}}}, \
                 [{{cacertfile, {:?}}}, {{certfile, {:?}}}, {{keyfile, {:?}}}, \
                 {{verify, verify_peer}}, {{fail_if_no_peer_cert, {required}}}], 1)",
                bring(clients.pem_path(), "ca"),
                bring(&own.cert, "cert"),
                bring(&own.key, "key"),
            );
            (port, expression)
        };
        let (ports, expressions): (Vec<_>, Vec<_>) = listeners.iter().map(listen).unzip();
        let expressions = expressions.join(", ");
        self.ctl(&[
            "eval",
            &format!("application:ensure_all_started(ssl), {expressions}, ok."),
        ]);
        ports
    }

    /// Listens for plain AMQP, until the node ends, at an address beside the loopback's too; the port.
    pub fn listen_at(&self, address: Ipv4Addr) -> u16 {
        let port = free_port();
        let expression =
            format!("rabbit_networking:start_tcp_listener({{\"{address}\", {port}}}, 1).");
        self.ctl(&["eval", &expression]);
        port
    }

    fn node(&self) -> &Node {
        self.running.as_ref().expect("the broker runs")
    }

    fn node_name(&self) -> String {
        format!("fantail{}@localhost", self.amqp_port)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `path(name)` as the node sees it.
    fn seen(&self, name: &str) -> PathBuf {
        match &self.root {
            None => self.path(name),
            Some(_) => Path::new(debian::INSIDE).join(name),
        }
    }

    fn script(&self, name: &str) -> Command {
        let script = format!("{SCRIPTS}/{name}");
        match &self.root {
            None => Command::new(script),
            Some(root) => root.command(&script, self.directory.path()),
        }
    }

    fn write_configuration(&mut self) {
        // Without the alarm of a disk that is nearly full, which would block publishers.
        let configuration = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\ndisk_free_limit.absolute = 1MB\nlog.console = false\n\
             auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = AMQPLAIN\nauth_mechanisms.3 = EXTERNAL\n\
             ssl_cert_login_from = common_name\nssl_options.verify = verify_peer\n",
            self.amqp_port
        );
        fs::write(self.path("rabbitmq.conf"), configuration).unwrap();
        fs::write(
            self.path("enabled_plugins"),
            "[rabbitmq_auth_mechanism_ssl].\n",
        )
        .unwrap();
        fs::create_dir(self.path("home")).unwrap();
        let cookie = format!("fantail-{}-{}", std::process::id(), self.amqp_port);
        self.share_cookie(&cookie);
    }

    fn share_cookie(&mut self, cookie: &str) {
        cookie.clone_into(&mut self.cookie);
        let path = self.path("home/.erlang.cookie");
        let _ = fs::remove_file(&path);
        fs::write(&path, cookie).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    }

    fn mapper_command(&self) -> Command {
        let mut command = Command::new("epmd");
        self.environment(&mut command)
            .args([
                "-address",
                "127.0.0.1",
                "-port",
                &self.epmd_port.to_string(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn server_command(&self) -> Command {
        let out = File::create(self.path("out")).unwrap();
        let mut command = self.script("rabbitmq-server");
        self.environment(&mut command)
            // The script then becomes the Erlang machine instead of staying beside it.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_CONFIG_FILE", self.seen("rabbitmq.conf"))
            .env(
                "RABBITMQ_ENABLED_PLUGINS_FILE",
                self.seen("enabled_plugins"),
            )
            .env("RABBITMQ_MNESIA_BASE", self.seen("mnesia"))
            .env("RABBITMQ_LOG_BASE", self.seen("log"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out);
        command
    }

    /// Nothing is inherited: a variable of the system's RabbitMQ would join the nodes.
    fn environment<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let search = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        command
            .env_clear()
            .env("PATH", search)
            .env("LANG", "C.UTF-8")
            .env("HOME", self.seen("home"))
            // To every Erlang machine under this one: nobody starts a port mapper as a daemon, which
            // would outlive the test.
            .env("ERL_FLAGS", "-start_epmd false")
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", self.node_name())
            .env("RABBITMQ_CONF_ENV_FILE", self.seen("no-such-file"))
            .current_dir(self.directory.path())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn listens(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn end_of(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
