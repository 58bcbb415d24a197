//! The lead of one server: its controllers and its scheduler reach the API only during the lead.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use controller_planners::leader_election::ClockReading;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use kube_api_client::{BoxError, Client, ResponseBody, Transport};
use tokio_util::sync::CancellationToken;

/// Reads a clock that never goes back, and continues while the machine is suspended.
pub type Clock = fn() -> ClockReading;

/// The time of one lead.
#[derive(Debug)]
pub struct Term {
    until: Mutex<ClockReading>,
    clock: Clock,
    over: CancellationToken,
}

/// The refusal after the end of the lead.
const OVER: &str = "another server may lead: controllers and scheduler of this one write nothing";

impl Term {
    /// A lead that ends at that reading.
    pub fn new(until: ClockReading, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            until: Mutex::new(until),
            clock,
            over: CancellationToken::new(),
        })
    }

    /// Prolongs the lead after a renewal.
    pub fn prolong(&self, until: ClockReading) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Ends the lead; pending requests are dropped.
    pub fn end(&self) {
        self.over.cancel();
    }

    /// Whether the lead is valid now. The clock is read for each request, because after a suspension of the process no
    /// timer has fired yet.
    pub fn holds(&self) -> bool {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        !self.over.is_cancelled() && (self.clock)() < until
    }
}

/// A client whose requests are refused after the end of the lead.
pub fn during(term: &Arc<Term>, client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let gate = Gate {
        client,
        term: Arc::clone(term),
    };
    Client::over(Arc::new(gate), &namespace)
}

struct Gate {
    client: Client,
    term: Arc<Term>,
}

impl Transport for Gate {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>, BoxError>> {
        let term = Arc::clone(&self.term);
        let response = self.client.send(request);
        let gated = async move {
            if !term.holds() {
                return Err(OVER.into());
            }
            tokio::select! {
                biased;
                () = term.over.cancelled() => Err(OVER.into()),
                response = response => response.map_err(Into::into),
            }
        };
        gated.boxed()
    }
}
