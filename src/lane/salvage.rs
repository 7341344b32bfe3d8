//! What is done about deleted files when the daemon stops: they are read to their end while their
//! descriptors are still open, because nobody can open them again.

use std::sync::mpsc::Receiver;
use std::time::Instant;

use tracing::{info, warn};

use super::place::Taking;
use super::{Input, Lane, Output};
use crate::lines::Progress;
use crate::model::FileId;
use crate::tail::Registration;
use crate::telemetry::progress;

/// So many looks at a file that bring nothing are enough.
const LOOKS_MAX: u32 = 5;

/// Told to end.
struct Ended;

impl<S: Fn(Output)> Lane<S> {
    pub(super) fn salvage(mut self, inputs: &Receiver<Input>) {
        let deleted = self.tail.deleted_and_unread();
        if deleted.is_empty() {
            return;
        }
        info!(
            files = deleted.len(),
            "reading deleted log files to their end"
        );
        for id in deleted {
            if self.read_out(id, inputs).is_err() {
                return;
            }
        }
        for source in 0..self.open.len() {
            self.close(source, Instant::now());
        }
        self.tell();
        // Told to end before that: it was in vain.
        let _ = self.wait_for_room(inputs);
    }

    fn read_out(&mut self, id: FileId, inputs: &Receiver<Input>) -> Result<(), Ended> {
        let mut in_vain = 0;
        loop {
            self.wait_for_room(inputs)?;
            while let Ok(input) = inputs.try_recv() {
                self.obey(input)?;
            }
            progress::step();
            let before = self.tail.read_to(id);
            self.look(id, Instant::now());
            self.keep_within_budgets(Instant::now());
            self.tell();
            let asked = |lane: &mut Self| {
                let file = lane.tail.get_mut(id);
                file.is_some_and(|file| file.registration == Registration::Asked)
            };
            while asked(self) {
                self.obey(progress::wait(|| inputs.recv()).map_err(|_| Ended)?)?;
            }
            let (read_to, size) = (self.tail.read_to(id), self.tail.size(id));
            if read_to.is_some() && read_to >= size {
                break;
            }
            // The first look may only make the file known.
            in_vain = if read_to == before { in_vain + 1 } else { 0 };
            if in_vain == LOOKS_MAX {
                warn!(file = %id, read = read_to, size, "a deleted log file cannot be read to its end");
                return Ok(());
            }
        }
        let now = Instant::now();
        if let Err(error) = self.take_held(id, Progress::default(), Taking::Rest, now) {
            warn!(file = %id, %error, "the last line of a deleted log file cannot be read");
        }
        self.say_eof(id, now);
        Ok(())
    }

    fn wait_for_room(&mut self, inputs: &Receiver<Input>) -> Result<(), Ended> {
        while !self.parked.is_empty() {
            self.obey(progress::wait(|| inputs.recv()).map_err(|_| Ended)?)?;
        }
        Ok(())
    }

    fn obey(&mut self, input: Input) -> Result<(), Ended> {
        match input {
            Input::Stop => Err(Ended),
            input => {
                self.take_stopped(input);
                Ok(())
            }
        }
    }
}
