//! `[http]`: where metrics and the page are served, and to whom.

use std::net::SocketAddr;

use super::raw::{Problem, Spot, Table};

/// `[http]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// Address and port; nothing: nothing is served.
    pub listen: Option<SocketAddr>,
    /// What is served to other machines.
    pub expose: Expose,
}

/// What is served beyond loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expose {
    /// Metrics and health, which name no file.
    #[default]
    Metrics,
    /// Everything.
    All,
}

const EXPOSE: &[(&str, Expose)] = &[("", Expose::Metrics), ("all", Expose::All)];

pub(super) fn http(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Http {
    let listen = table
        .string("listen", problems)
        .filter(|spot| !spot.value.is_empty())
        .and_then(|spot| address(&spot, problems));
    let expose = table.choice("expose", EXPOSE, problems);
    Http {
        listen,
        expose: expose.unwrap_or_default(),
    }
}

fn address(spot: &Spot<String>, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
    let advice = "write an IP address and a port: \"127.0.0.1:9465\", \"[::1]:9465\", or \
                  \"0.0.0.0:9465\" for all addresses of this machine";
    let problem = match spot.value.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => return Some(address),
        Ok(_) => spot.problem("port 0 is another one at each start".to_owned()),
        Err(_) => spot.problem(format!("not an address to listen at: {:?}", spot.value)),
    };
    problems.push(problem.advise(advice.to_owned()));
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::load_text;

    #[test]
    fn every_key_of_http_is_used_and_nothing_is_served_unless_asked_for() {
        let http = |lines: &str| load_text(&format!("[http]\n{lines}")).expect("valid").http;
        assert_eq!(http(""), Http::default());
        assert_eq!(http("listen = \"\"\nexpose = \"\""), Http::default());
        let all = http("listen = \"[::1]:9465\"\nexpose = \"all\"");
        assert_eq!(all.listen, "[::1]:9465".parse().ok());
        assert_eq!(all.expose, Expose::All);
    }

    #[test]
    fn only_an_address_and_a_port_can_be_listened_at() {
        for text in [
            "9465",
            ":9465",
            "localhost:9465",
            "127.0.0.1",
            "127.0.0.1:0",
        ] {
            let told = load_text(&format!("[http]\nlisten = \"{text}\"\n")).expect_err(text);
            assert!(told.contains("fantail.toml:2:10: "), "{told}");
            assert!(told.contains("127.0.0.1:9465"), "{told}");
        }
    }
}
