//! SIGHUP: the configuration is read again. What cannot be used changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::Signal;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tracing::info;

use super::http::Http;
use super::notify::Notify;
use crate::config::{self, Config};
use crate::pipeline::Reload;

/// Each SIGHUP reads the configuration at `path` again and hands it to the pipeline. Signals
/// that come while one is dealt with are one.
pub(super) async fn follow(
    mut hangup: Signal,
    path: PathBuf,
    reloads: UnboundedSender<Reload>,
    mut http: Http,
    notify: Arc<Notify>,
) {
    while hangup.recv().await.is_some() {
        notify.reloading();
        info!(path = %path.display(), "reading the configuration again");
        let (done, followed) = oneshot::channel();
        let config = read(path.clone()).await;
        let served = config.as_ref().ok().map(|config| config.http);
        if reloads.send(Reload { config, done }).is_err() {
            return;
        }
        // A pipeline that ends follows nothing.
        if let (Ok(true), Some(served)) = (followed.await, served) {
            http.configure(served);
        }
        notify.ready();
    }
}

/// On a thread of its own: the file may lie on a disk that does not answer.
async fn read(path: PathBuf) -> Result<Box<Config>, String> {
    let loaded = tokio::task::spawn_blocking(move || config::load(&path)).await;
    match loaded {
        Ok(Ok(config)) => Ok(Box::new(config)),
        Ok(Err(error)) => {
            let problems = error.0.iter().map(|problem| problem.in_one_line());
            Err(problems.collect::<Vec<_>>().join("; "))
        }
        Err(error) => Err(format!("the configuration could not be read: {error}")),
    }
}
