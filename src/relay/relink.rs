//! From one broker, or one way to it, to another: what is out is waited for first, so that nothing is
//! published twice because a setting changed.

use std::time::Instant;

use super::{Action, Course, Options, Relay, Topology};
use crate::publish::Queue;

impl Relay {
    /// Another link is to take the place of this one: nothing new goes out, and what is out is
    /// waited for, and the check behind it.
    pub fn settle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.settling = true;
        self.advance(now, actions);
    }

    /// The link stays after all.
    pub fn stay(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.settling = false;
        self.place_what_waits(actions);
        self.advance(now, actions);
    }

    /// Whether nothing is out, and everything that was acknowledged is confirmed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_idle() && !self.is_dirty() && !self.window.has_outcomes()
    }

    /// Another link has taken the place of the one that there was, perhaps to another broker and to
    /// other queues. There is no connection yet.
    pub fn relinked(
        &mut self,
        options: Options,
        queues: Vec<Queue>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.settling = false;
        self.options = options;
        self.disconnected(false);
        self.topology = Topology::Connecting;
        self.window.serve(queues);
        (self.refusing, self.refusals) = (None, 0);
        self.told.clear();
        self.bad_checks = 0;
        self.unrouted = None;
        // A good check of these queues would say nothing of what the others acknowledged.
        self.send_again(actions);
        self.place_what_waits(actions);
        self.advance(now, actions);
    }

    /// The same link, and other pauses.
    pub fn configure(&mut self, options: Options) {
        self.options = options;
    }

    fn place_what_waits(&mut self, actions: &mut Vec<Action>) {
        if self.course != Course::Wait {
            for batch in std::mem::take(&mut self.waiting) {
                self.place(batch, actions);
            }
        }
    }
}
