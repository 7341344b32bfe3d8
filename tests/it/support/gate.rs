//! Owns an address that stands for a broker's, at which nobody listens until the gate is opened.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;

use super::ports::free_port;

/// A broker that is away for one agent, while others use it.
pub struct Gate {
    port: u16,
    behind: u16,
}

impl Gate {
    /// In front of the port `behind` of this host, and closed.
    pub fn closed(behind: u16) -> Self {
        let port = free_port();
        Self { port, behind }
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// From now on, until the test process ends, connections are passed on.
    pub fn open(&self) {
        let behind = self.behind;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                // A broker that is gone as well is one that closes at once.
                if let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, behind)) {
                    pass_on(&near, &far);
                    pass_on(&far, &near);
                }
            }
        });
    }
}

/// One direction, until either end closes; then both are closed.
fn pass_on(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}
