//! What a manifest would do, planned on a machine that serves nothing, with what the fleet's queue knows of its hosts.

use std::sync::Arc;

use jiff::Timestamp;
use larder_jobs::HostName;
use larder_jobs::client::{Address, Connection, Queue};

use crate::api::Warmer;
use crate::worker::{self, Context, Occasion};

/// For the API of a command; the queue is not connected to before somebody asks.
pub(super) fn warmer(context: Context, host: HostName, address: Address) -> Warmer {
    let queue = Queue::new(Connection::new(address));
    Arc::new(move |manifest, stop| {
        let (context, host, fleet) = (context.clone(), host.clone(), Some(queue.clone()));
        Box::pin(async move {
            let occasion = Occasion { host, run: None, now: Timestamp::now(), fleet };
            worker::night_from_afar(&context, &manifest, &occasion, &stop).await
        })
    })
}
