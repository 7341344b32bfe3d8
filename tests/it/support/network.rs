//! Owns a network between this host and an agent: three hosts, of which the one in the middle can
//! lose packets of either direction without a word, or be slow.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::leash::Leash;
use super::ports::free_port;
use super::process::Process;
use super::wait::wait_for;

/// Made for measurements between networks (RFC 2544), so that nobody has them. `free_port` keeps
/// networks apart.
const HOST_SIDE: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const AGENT_SIDE: u32 = u32::from_be_bytes([10, 18, 0, 0]);

const START: Duration = Duration::from_secs(60);

/// `$1` is the host's end of its link, `$2` and `$3` the processes in the middle and at the agent,
/// `$4` and `$5` the ends of the host's link, `$6` and `$7` those of the agent's. Without the filters
/// a sender to whom packets are lost could not send either.
const MAKE: &str = r#"
set -e
middle="nsenter --net=/proc/$2/ns/net"
agent="nsenter --net=/proc/$3/ns/net"
ip link add "$1" type veth peer name host netns "$2"
ip address add "$4/30" dev "$1"
ip link set "$1" up
$middle ip address add "$5/30" dev host
$middle ip link set host up
$middle ip link add agent type veth peer name middle netns "$3"
$middle ip address add "$6/30" dev agent
$middle ip link set agent up
$agent ip link set lo up
$agent ip address add "$7/30" dev middle
$agent ip link set middle up
$agent ip route add default via "$6"
ip route add "$7/32" via "$5"
$middle sh -c '
    echo 1 >/proc/sys/net/ipv4/ip_forward
    for filter in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >"$filter"; done'
"#;

/// Where packets go that are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    Host,
    Agent,
}

/// Namespaces and links. They end with the processes that are in them, and those with the test.
pub struct Network {
    middle: Process,
    agent: Process,
    host_address: Ipv4Addr,
    agent_address: Ipv4Addr,
    _leash: Leash,
}

impl Network {
    /// Whether whoever runs the tests may make one.
    pub fn is_allowed() -> bool {
        rustix::process::geteuid().is_root()
    }

    pub fn new() -> Self {
        let (middle, agent) = (namespace(), namespace());
        let mut leash = Leash::on_processes();
        leash.hold(&[middle.id(), agent.id()]);
        let number = free_port();
        let address = |side: u32, host: u32| Ipv4Addr::from(side + u32::from(number) * 4 + host);
        let (host_address, agent_address) = (address(HOST_SIDE, 1), address(AGENT_SIDE, 2));
        let mut make = Command::new("sh");
        make.args(["-c", MAKE, "make"])
            .arg(format!("fantail{number}"))
            .args([middle.id(), agent.id()].map(|id| id.to_string()))
            .args([host_address, address(HOST_SIDE, 2)].map(|address| address.to_string()))
            .args([address(AGENT_SIDE, 1), agent_address].map(|address| address.to_string()));
        succeed(&mut make);
        Self {
            middle,
            agent,
            host_address,
            agent_address,
            _leash: leash,
        }
    }

    /// This host's address as the agent has it.
    pub fn host_address(&self) -> Ipv4Addr {
        self.host_address
    }

    /// What stands in front of a command that is to run at the agent's end.
    pub fn entry(&self) -> Vec<String> {
        enter(&self.agent)
    }

    /// Lets everything that goes that way vanish, until `heal`.
    pub fn lose(&self, towards: Towards) {
        self.route("add", towards);
    }

    pub fn heal(&self, towards: Towards) {
        self.route("delete", towards);
    }

    /// So many bits a second go from the agent to this host, with a queue of a few packets in front.
    pub fn slow_down(&self, rate: &str) {
        let mut tc = self.in_the_middle("tc");
        tc.args(["qdisc", "add", "dev", "host", "root", "tbf", "rate", rate])
            .args(["burst", "16kb", "latency", "200ms"]);
        succeed(&mut tc);
    }

    fn route(&self, action: &str, towards: Towards) {
        let address = match towards {
            Towards::Host => self.host_address,
            Towards::Agent => self.agent_address,
        };
        let mut ip = self.in_the_middle("ip");
        ip.args(["route", action, "blackhole", &format!("{address}/32")]);
        succeed(&mut ip);
    }

    fn in_the_middle(&self, program: &str) -> Command {
        let entry = enter(&self.middle);
        let mut command = Command::new(&entry[0]);
        command.args(&entry[1..]).arg(program);
        command
    }
}

fn enter(process: &Process) -> Vec<String> {
    let namespace = format!("--net=/proc/{}/ns/net", process.id());
    vec!["nsenter".to_owned(), namespace]
}

/// A process that does nothing, in a network of its own.
fn namespace() -> Process {
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sleep", "infinity"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let process = Process::spawn("unshare", &mut command);
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let id = process.id().to_string();
    wait_for(START, "there is a namespace", || of(&id) != of("self"));
    process
}

fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
