//! How full the bounded queues between the parts of a node are, measured when somebody asks.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use prometheus::IntGaugeVec;

use super::Register;

/// Length and limit of a queue; `None` when it is gone.
type Measure = Box<dyn Fn() -> Option<(usize, usize)> + Send + Sync>;

pub(super) struct Queues {
    /// Guards the list, which grows while the node is put together.
    watched: Mutex<Vec<(&'static str, Measure)>>,
    length: IntGaugeVec,
    limit: IntGaugeVec,
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queues").finish_non_exhaustive()
    }
}

impl Queues {
    pub(super) fn new(r: &Register<'_>) -> Self {
        Self {
            watched: Mutex::default(),
            length: r.gauges("queue_length", "What waits in a queue", &["queue"]),
            limit: r.gauges("queue_limit", "What has room in a queue", &["queue"]),
        }
    }

    pub(super) fn watch(&self, name: &'static str, measure: Measure) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push((name, measure));
    }

    /// Brings the gauges up to date.
    pub(super) fn measure(&self) {
        for (name, measure) in self.watched.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let Some((length, limit)) = measure() else { continue };
            self.length.with_label_values(&[name]).set(length as i64);
            self.limit.with_label_values(&[name]).set(limit as i64);
        }
    }
}
