//! What is answered to whom. Beyond loopback only what names no file, unless the configuration says
//! otherwise; on loopback only requests that were meant for this machine, because any page in a
//! browser can have a name of its own resolved to 127.0.0.1 (DNS rebinding).

use std::net::{IpAddr, Ipv6Addr};
use std::num::ParseIntError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};

use super::history::{self, History};
use super::metrics;
use super::page::Page;
use crate::config::Expose;
use crate::pipeline::{Ask, LaneMeasures};
use crate::status::{BrokerState, File, Status};
use crate::telemetry::progress::{Activity, Progress, Stage};

/// A stage that has worked on one step for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// What every answer may need.
pub(super) struct Shared {
    pub(super) ask: Ask,
    pub(super) progress: Progress,
    pub(super) history: Mutex<History>,
    expose: Expose,
    page: Page,
    /// What the lane said last: counters must not vanish while it says nothing.
    lane: Mutex<LaneMeasures>,
}

impl Shared {
    pub(super) fn new(ask: Ask, progress: Progress, expose: Expose) -> Self {
        Self {
            ask,
            progress,
            history: Mutex::default(),
            expose,
            page: Page::new(),
            lane: Mutex::default(),
        }
    }
}

/// The address at which a connection arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local(pub(super) IpAddr);

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let private = Router::new()
        .route("/", get(page))
        .route("/status", get(status))
        .route("/history", get(past))
        .route_layer(from_fn_with_state(Arc::clone(&shared), guard));
    Router::new()
        .route("/metrics", get(measured))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .merge(private)
        .with_state(shared)
}

/// Lets only those through who may see names of files.
async fn guard(
    State(shared): State<Arc<Shared>>,
    Extension(Local(local)): Extension<Local>,
    request: Request,
    next: Next,
) -> Response {
    match refusal(local, shared.expose, request.headers(), request.uri()) {
        None => next.run(request).await,
        Some(why) => text(StatusCode::FORBIDDEN, why.to_owned()),
    }
}

fn refusal(local: IpAddr, expose: Expose, headers: &HeaderMap, uri: &Uri) -> Option<&'static str> {
    if !local.is_loopback() {
        let refused = expose != Expose::All;
        return refused.then_some(
            "beyond loopback only /metrics and /health are served; expose = \"all\" under [http] \
             serves everything",
        );
    }
    let named = headers.get(header::HOST).map(HeaderValue::to_str);
    let meant = match (uri.host(), named) {
        (Some(host), _) => is_this_machine(host, local),
        (None, Some(Ok(host))) => is_this_machine(without_port(host), local),
        (None, _) => false,
    };
    (!meant).then_some(
        "ask for it as localhost or by its address: the Host header names another machine",
    )
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_this_machine(host: &str, local: IpAddr) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let address = match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().map(IpAddr::from),
        None => host.parse(),
    };
    match address {
        Ok(address) => address.is_loopback() || address.to_canonical() == local,
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

async fn page(State(shared): State<Arc<Shared>>) -> Response {
    shared.page.response()
}

async fn status(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let Ok(most) = files_wanted(uri.query().unwrap_or_default()) else {
        return text(
            StatusCode::BAD_REQUEST,
            "files is the number of files that are wanted, as in /status?files=100".to_owned(),
        );
    };
    match shared.ask.status().await {
        Ok(mut status) => {
            if let (Some(files), Some(most)) = (&mut status.files, most) {
                keep_worst(files, most);
            }
            json(&status)
        }
        Err(silent) => text(StatusCode::SERVICE_UNAVAILABLE, silent.to_string()),
    }
}

/// From `files=100`; nothing if all are wanted.
fn files_wanted(query: &str) -> Result<Option<usize>, ParseIntError> {
    let mut parameters = query.split('&');
    let files = parameters.find_map(|parameter| parameter.strip_prefix("files="));
    files.map(str::parse).transpose()
}

/// Keeps those with the greatest lag, the greatest first.
fn keep_worst(files: &mut Vec<File>, most: usize) {
    files.sort_unstable_by(|a, b| (b.lag, &a.path).cmp(&(a.lag, &b.path)));
    files.truncate(most);
}

async fn past(State(shared): State<Arc<Shared>>) -> Response {
    let history = shared.history.lock();
    let history = history.unwrap_or_else(PoisonError::into_inner);
    json(&history::Told::of(&history))
}

/// Also while the daemon says nothing: just then somebody wants to know which stage is stuck.
async fn measured(State(shared): State<Arc<Shared>>) -> Response {
    let measures = shared.ask.measures().await.ok();
    let mut last = shared.lane.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(lane) = measures.as_ref().and_then(|measures| measures.lane.clone()) {
        *last = lane;
    }
    let body = metrics::exposed(measures.as_ref(), &last, &shared.progress);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    answer(StatusCode::OK, kind, body)
}

async fn live(State(shared): State<Arc<Shared>>) -> Response {
    health(&stuck(&shared.progress, STUCK))
}

/// The stages that have worked on one step for `so_long`. A system call that takes long is no reason
/// to kill anybody.
fn stuck(progress: &Progress, so_long: Duration) -> Vec<String> {
    let stages = Stage::ALL.iter();
    let stuck = stages.filter_map(|stage| match progress.of(*stage) {
        Activity::Working(time) if time >= so_long => {
            let (stage, seconds) = (stage.as_str(), time.as_secs());
            Some(format!("{stage}: stuck in one step for {seconds} s"))
        }
        _ => None,
    });
    stuck.collect()
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.ask.status().await {
        Ok(status) => health(&unready(&status)),
        Err(silent) => health(&[silent.to_string()]),
    }
}

/// Why lines do not get to the queues at present. In words that name neither file nor broker.
fn unready(status: &Status) -> Vec<String> {
    let mut reasons = Vec::new();
    match status.broker.state {
        BrokerState::Connected => {}
        BrokerState::Connecting => reasons.push("broker: connecting".to_owned()),
        BrokerState::Blocked => reasons.push("broker: takes nothing (blocked)".to_owned()),
        BrokerState::Down => reasons.push("broker: down".to_owned()),
    }
    for stage in &status.stages {
        let well = match stage.name.as_str() {
            // Without a connection there is nothing more to say.
            "relay" => stage.state == "publishing" || !reasons.is_empty(),
            "spool" => matches!(&*stage.state, "idle" | "spooling" | "draining"),
            "lane" => matches!(&*stage.state, "running" | "full"),
            _ => stage.state == "running",
        };
        if !well {
            reasons.push(format!("{}: {}", stage.name, stage.state));
        }
    }
    reasons
}

fn health(reasons: &[String]) -> Response {
    if reasons.is_empty() {
        return text(StatusCode::OK, "ok".to_owned());
    }
    text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n"))
}

fn text(status: StatusCode, text: String) -> Response {
    answer(status, "text/plain; charset=utf-8", text + "\n")
}

fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => answer(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn answer(status: StatusCode, kind: &'static str, body: impl IntoResponse) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    harden(headers);
    response
}

/// What every answer says to a browser.
pub(super) fn harden(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(nothing);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(local: &str, expose: Expose, host: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, HeaderValue::from_str(host).expect("a value"));
        }
        let local = local.parse().expect("an address");
        refusal(local, expose, &headers, &Uri::from_static("/status")).is_some()
    }

    #[test]
    fn on_loopback_only_who_means_this_machine_sees_files() {
        for host in [
            "localhost",
            "LocalHost:9465",
            "127.0.0.1:9465",
            "127.1.2.3",
            "[::1]:9465",
            "[::1]",
        ] {
            assert!(!refused("127.0.0.1", Expose::Metrics, Some(host)), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9465",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.1",
            "[2001:db8::1]:9465",
            "",
        ] {
            assert!(refused("127.0.0.1", Expose::All, Some(host)), "{host}");
        }
        assert!(refused("127.0.0.1", Expose::All, None));
        assert!(!refused("::1", Expose::Metrics, Some("[::1]:9465")));
    }

    #[test]
    fn as_many_files_are_told_as_are_wanted_and_those_behind_most_come_first() {
        assert_eq!(files_wanted(""), Ok(None));
        assert_eq!(files_wanted("now&files=100"), Ok(Some(100)));
        for wrong in ["files=", "files=-1", "files=all"] {
            assert!(files_wanted(wrong).is_err(), "{wrong}");
        }
        let file = |(path, lag): (&str, u64)| File {
            path: path.to_owned(),
            id: None,
            source: "app".to_owned(),
            size: lag,
            read: 0,
            confirmed: 0,
            lag,
            oldest_unconfirmed_s: None,
            state: crate::status::FileState::Active,
        };
        let mut files: Vec<File> = [("c", 1), ("b", 7), ("a", 7), ("d", 9)].map(file).into();
        keep_worst(&mut files, 3);
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["d", "a", "b"]);
    }

    #[test]
    fn only_a_stage_that_works_on_and_on_is_no_longer_alive() {
        let progress = Progress::default();
        let long = Duration::from_millis(20);
        assert!(stuck(&progress, Duration::ZERO).is_empty());
        let _entered = progress.enter(Stage::Spool);
        let reach = || {
            let until = std::time::Instant::now() + Duration::from_secs(60);
            while progress.of(Stage::Spool).stalled() < long {
                assert!(std::time::Instant::now() < until);
                std::thread::yield_now();
            }
        };
        reach();
        assert_eq!(stuck(&progress, long), ["spool: stuck in one step for 0 s"]);
        crate::telemetry::progress::call(|| {
            reach();
            assert!(stuck(&progress, long).is_empty());
        });
    }

    #[test]
    fn others_see_files_only_where_the_operator_says_so() {
        for host in [Some("192.0.2.1:9465"), Some("localhost"), None] {
            assert!(refused("192.0.2.1", Expose::Metrics, host), "{host:?}");
        }
        assert!(!refused("192.0.2.1", Expose::All, Some("logs.example")));
    }
}
