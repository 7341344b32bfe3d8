//! Credit: what lies between the lanes and the broker's acknowledgements, in bytes and messages.
//! A permit travels with its batch and gives its share back when it is dropped, so that nothing
//! can forget to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a message takes of the account beside its body.
pub const MESSAGE_OVERHEAD: usize = 1024;

/// The shared account. Lanes take permits from it; whoever drops a permit wakes a lane that waits.
#[derive(Clone, Debug)]
pub struct Credit(Arc<Shared>);

struct Shared {
    account: Mutex<Account>,
    /// Called without the lock held, when room came back that somebody asked for in vain.
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Debug, Default)]
struct Account {
    bytes_max: usize,
    bytes: usize,
    messages: usize,
    /// Somebody was refused, or waits for fewer messages, since the last wake.
    wanted: bool,
    /// Somebody was refused since something came back last.
    refused: bool,
}

impl Credit {
    /// An account of `bytes_max` encoded bytes; `wake` is called when room comes back after a
    /// refusal.
    pub fn new(bytes_max: usize, wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            account: Mutex::new(Account {
                bytes_max,
                ..Account::default()
            }),
            wake: Box::new(wake),
        }))
    }

    /// From now on so many bytes may be out.
    pub fn resize(&self, bytes_max: usize) {
        let wanted = {
            let mut account = self.0.lock();
            account.bytes_max = bytes_max;
            account.refused = false;
            std::mem::take(&mut account.wanted)
        };
        if wanted {
            (self.0.wake)();
        }
    }

    /// A permit for one message of `bytes`, if it fits. A message larger than the whole account
    /// goes when nothing else is out.
    pub fn take(&self, bytes: usize) -> Option<Permit> {
        let mut account = self.0.lock();
        let fits = account.bytes.saturating_add(bytes) <= account.bytes_max;
        if !fits && account.messages > 0 {
            account.wanted = true;
            account.refused = true;
            return None;
        }
        account.bytes += bytes;
        account.messages += 1;
        Some(Permit {
            bytes,
            shared: Arc::clone(&self.0),
        })
    }

    /// A permit whether it fits or not, for what takes the place of something that had one.
    #[must_use]
    pub fn take_anyway(&self, bytes: usize) -> Permit {
        let mut account = self.0.lock();
        account.bytes += bytes;
        account.messages += 1;
        Permit {
            bytes,
            shared: Arc::clone(&self.0),
        }
    }

    /// Whether somebody was refused and nothing came back since.
    #[must_use]
    pub fn has_refused(&self) -> bool {
        self.0.lock().refused
    }

    /// Whether at least half of it is to be had.
    #[must_use]
    pub fn is_half_free(&self) -> bool {
        let account = self.0.lock();
        account.messages == 0 || account.bytes <= account.bytes_max / 2
    }

    /// Whether fewer than `messages_max` messages are out; if not, the next return wakes.
    #[must_use]
    pub fn fewer_than(&self, messages_max: usize) -> bool {
        let mut account = self.0.lock();
        let fewer = account.messages < messages_max;
        account.wanted |= !fewer;
        fewer
    }

    /// Bytes that are out.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.lock().bytes
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Account> {
        // Two integers and a flag are whole after every statement: a panic elsewhere spoils nothing.
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credit")
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

/// One message's share of the window.
#[derive(Debug)]
pub struct Permit {
    bytes: usize,
    shared: Arc<Shared>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let wanted = {
            let mut account = self.shared.lock();
            account.bytes -= self.bytes;
            account.messages -= 1;
            account.refused = false;
            std::mem::take(&mut account.wanted)
        };
        if wanted {
            (self.shared.wake)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_refused_taker_is_woken_once_when_room_comes_back() {
        let woken = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&woken);
        let credit = Credit::new(10, move || {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        let first = credit.take(6);
        let second = credit.take(4);
        assert!(first.is_some() && second.is_some());
        assert!(credit.take(1).is_none());
        drop(first);
        drop(second);
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert_eq!(credit.bytes(), 0);
    }

    #[test]
    fn a_message_larger_than_the_window_goes_alone() {
        let credit = Credit::new(10, || {});
        let small = credit.take(1);
        assert!(credit.take(11).is_none());
        drop(small);
        assert!(credit.take(11).is_some());
    }
}
