//! The renewal of a node's certificates: the time of the next renewal, and the loop that requests the
//! certificates.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube_api_client::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::client::renewed_client;
use crate::error::Error;
use crate::keys::{CertificateSubject, Identity};
use crate::request::request;
use crate::servers::Servers;

/// The share of its lifetime after which a certificate may be renewed, as in client-go's certificate
/// manager.
const EARLIEST: f64 = 0.7;
/// The share of the lifetime over which the nodes of a cluster spread their requests.
const SPREAD: f64 = 0.2;
/// The delay after the first failure. It doubles with each further failure.
const RETRY_FIRST: SignedDuration = SignedDuration::from_secs(2);
/// The longest delay after a failure.
const RETRY_MAX: SignedDuration = SignedDuration::from_mins(10);
/// The longest sleep, because a clock may be set, and a machine may be suspended.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// The period in which a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// `notBefore` of the certificate.
    pub begins: Timestamp,
    /// `notAfter` of the certificate.
    pub ends: Timestamp,
}

impl Validity {
    /// The validity of the first certificate in a PEM text; `None` if there is no certificate.
    pub fn of_pem(pem: &str) -> Option<Self> {
        let (begins, ends) = certificates::validity_of_pem(pem)?;
        Some(Self {
            begins: begins.try_into().ok()?,
            ends: ends.try_into().ok()?,
        })
    }

    /// The time of the renewal: between 70 % and 90 % of the lifetime; `share` is between 0 and 1.
    pub fn renewal(&self, share: f64) -> Timestamp {
        let life = self.ends.duration_since(self.begins).as_secs_f64();
        let part = EARLIEST + SPREAD * share.clamp(0.0, 1.0);
        let after = SignedDuration::try_from_secs_f64(life.max(0.0) * part);
        let after = after.unwrap_or_default();
        self.begins.checked_add(after).unwrap_or(self.ends)
    }
}

/// Failed attempts since the last certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    /// The number of consecutive failures.
    pub count: u32,
    /// The time of the last failure.
    pub last: Timestamp,
}

impl Failures {
    /// The failures after a further failure at the time `last`.
    pub fn after(before: Option<Self>, last: Timestamp) -> Self {
        let count = before.map_or(0, |before| before.count).saturating_add(1);
        Self { count, last }
    }

    fn next_attempt(&self) -> Timestamp {
        let doubled = 2_i32.saturating_pow(self.count.saturating_sub(1).min(30));
        let wait = RETRY_FIRST.saturating_mul(doubled).min(RETRY_MAX);
        self.last.checked_add(wait).unwrap_or(self.last)
    }
}

/// The time until a certificate must be renewed whose renewal is at `renewal`; `None` if it must be renewed
/// now.
pub fn wait(
    renewal: Timestamp,
    failures: Option<Failures>,
    now: Timestamp,
) -> Option<SignedDuration> {
    // If a failure is in the future, the clock was set back.
    let failures = failures.filter(|failures| failures.last <= now);
    let due = failures.map_or(renewal, |failures| failures.next_attempt().max(renewal));
    (now < due).then(|| due.duration_since(now))
}

/// The renewal of one certificate of a node.
pub struct Renewal {
    pub servers: Servers,
    /// The certificate authority of the cluster, in PEM.
    pub ca_pem: String,
    /// The subject and the usages of the new certificate.
    pub subject: CertificateSubject,
    /// A receiver of the node's client certificate, with which the node sends its requests.
    pub client: watch::Receiver<Identity>,
    /// The certificate that is renewed, which may be the client certificate.
    pub current: watch::Sender<Identity>,
}

impl Renewal {
    /// Renews the certificate until `stop`. `now` returns the time.
    ///
    /// # Errors
    /// `Expired` if the client certificate is no longer valid: the node needs a token. `Issued` if a
    /// certificate cannot be read.
    pub async fn run(
        self,
        now: impl Fn() -> Timestamp,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        let renewed = stop.run_until_cancelled(self.renew(now));
        renewed.await.unwrap_or(Ok(()))
    }

    async fn renew(&self, now: impl Fn() -> Timestamp) -> Result<(), Error> {
        let client = renewed_client(&self.servers, &self.ca_pem, self.client.clone());
        loop {
            let validity = validity(&self.current.borrow())?;
            let renewal = validity.renewal(rand::random());
            let mut failures = None;
            while let Err(error) = self.attempt(renewal, failures, &client, &now).await {
                if matches!(error, Error::Expired(_)) {
                    return Err(error);
                }
                let cause: &dyn std::error::Error = &error;
                tracing::warn!(cause, "a certificate of the node is not renewed");
                failures = Some(Failures::after(failures, now()));
            }
        }
    }

    /// Waits until the certificate must be renewed, and requests the next certificate.
    async fn attempt(
        &self,
        renewal: Timestamp,
        failures: Option<Failures>,
        client: &Client,
        now: &impl Fn() -> Timestamp,
    ) -> Result<(), Error> {
        while let Some(time) = wait(renewal, failures, now()) {
            let time = Duration::try_from(time).unwrap_or_default();
            tokio::time::sleep(time.min(SLEEP_MAX)).await;
        }
        let ends = validity(&self.client.borrow())?.ends;
        if ends < now() {
            return Err(Error::Expired(ends.to_string()));
        }
        let next = request(client, &self.subject).await?;
        self.current.send_replace(next);
        Ok(())
    }
}

fn validity(identity: &Identity) -> Result<Validity, Error> {
    Validity::of_pem(&identity.certificate_pem).ok_or(Error::Issued)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn hundred_days() -> Validity {
        Validity {
            begins: at(0),
            ends: at(100 * DAY),
        }
    }

    #[test]
    fn a_certificate_is_renewed_between_70_and_90_percent_of_its_life() {
        let validity = hundred_days();
        for (share, days) in [(0.0, 70), (0.5, 80), (1.0, 90), (-1.0, 70), (7.0, 90)] {
            let renewal = validity.renewal(share);
            // The test ignores fractions of seconds.
            let difference = renewal.duration_since(at(days * DAY)).abs();
            assert!(
                difference < SignedDuration::from_secs(1),
                "{share}: {renewal}"
            );
        }
        let never = Validity {
            begins: at(DAY),
            ends: at(0),
        };
        assert_eq!(never.renewal(0.5), at(DAY));
    }

    #[test]
    fn nothing_is_due_before_the_time() {
        let renewal = at(80 * DAY);
        for (now, expected) in [
            (at(-5), Some(80 * DAY + 5)),
            (at(80 * DAY - 1), Some(1)),
            (at(80 * DAY), None),
            (at(101 * DAY), None),
        ] {
            let expected = expected.map(SignedDuration::from_secs);
            assert_eq!(wait(renewal, None, now), expected, "{now}");
        }
    }

    #[test]
    fn failures_are_followed_by_longer_waits() {
        let (renewal, now) = (at(80 * DAY), at(81 * DAY));
        let mut failures = None;
        for seconds in [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600] {
            failures = Some(Failures::after(failures, now));
            let expected = Some(SignedDuration::from_secs(seconds));
            assert_eq!(wait(renewal, failures, now), expected, "{failures:?}");
        }
        let last = at(90 * DAY);
        let many = Some(Failures {
            count: u32::MAX,
            last,
        });
        assert_eq!(Failures::after(many, last).count, u32::MAX);
        let expected = Some(SignedDuration::from_secs(600));
        assert_eq!(wait(renewal, many, last), expected);
        // The clock was set back, so the failure has no meaning for the present time.
        assert_eq!(wait(renewal, many, now), None);
        let expected = Some(SignedDuration::from_secs(70 * DAY));
        assert_eq!(wait(renewal, many, at(10 * DAY)), expected);
    }

    #[test]
    fn a_text_without_a_certificate_has_no_validity() {
        for text in [
            "",
            "x",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            assert_eq!(Validity::of_pem(text), None, "{text}");
        }
    }
}
